"""Replicas of the service over one database in memory, wired as the service wires them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from keyturn_server.administration import Administration
from keyturn_server.domain.claims import TokenRules
from keyturn_server.domain.errors import UnavailableError
from keyturn_server.domain.lifecycle import first_ring
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.ring import Key, Ring, signer, standby
from keyturn_server.ledger import Ledger
from keyturn_server.maintenance import Maintenance
from keyturn_server.ports import RingSeal, WrappedKey
from keyturn_server.publishing import Publishing
from keyturn_server.readiness import Readiness
from keyturn_server.rings import Rings
from keyturn_server.rotation import Rotation
from keyturn_server.signers import Signers
from keyturn_server.signing import Signing
from keyturn_server.storage.memory import MemoryDatabase, MemoryStore
from tests.doubles import FailingStore, HmacSeal, ManualClock, PooledKeys
from tests.rings import HOUR, POLICY, change


@dataclass
class World:
    """What all replicas of a deployment share."""

    database: MemoryDatabase = field(default_factory=MemoryDatabase)
    keys: PooledKeys = field(default_factory=PooledKeys)
    seal: RingSeal = field(default_factory=HmacSeal)
    clock: ManualClock = field(default_factory=ManualClock)
    rules: Mapping[str, TokenRules] = field(
        default_factory=lambda: {issuer: TokenRules(default_lifetime=HOUR / 2) for issuer in ("contoso", "fabrikam")}
    )

    async def add_issuer(self, issuer: str = "contoso", *, policy: Policy = POLICY) -> Ring:
        """Makes a new issuer's ring now, as `init` does."""
        first, second = (self.keys.generate(issuer, policy.key_size) for _ in range(2))
        made = change(self.clock.now(), actor="init", action="made the issuer")
        ring = first_ring(issuer, f"https://{issuer}.example", policy, (first[0], second[0]), made)
        await Ledger(MemoryStore(self.database), self.seal).append(ring, add=[first[1], second[1]])
        return ring

    async def append(self, ring: Ring, *, add: Sequence[WrappedKey] = ()) -> None:
        """Appends a version that somebody else made."""
        await Ledger(MemoryStore(self.database), self.seal).append(ring, add=add)

    async def stored(self, issuer: str = "contoso") -> Ring:
        """The newest version of a ring in the database."""
        return (await Ledger(MemoryStore(self.database), self.seal).read([issuer])).rings[issuer]

    def private_keys(self, issuer: str = "contoso") -> set[str]:
        """The kids of the private keys that are in the database."""
        return {kid for owner, kid in self.database.keys if owner == issuer}

    async def replica(self) -> "Replica":
        """A replica that has done its first step: everything that is due now is done."""
        replica = Replica(self)
        await replica.maintenance.step()
        return replica


class Replica:
    """One replica: its own connection and its own memory."""

    def __init__(
        self, world: World, *, clock: ManualClock | None = None, random: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.clock = clock or world.clock
        self.store = FailingStore(MemoryStore(world.database))
        self.ledger = Ledger(self.store, world.seal)
        self.signers = Signers(self.store, world.keys)
        self.rings = Rings(self.ledger, self.signers, self.clock)
        self.rotation = Rotation(self.ledger, self.rings, world.keys, self.clock, random)
        self.maintenance = Maintenance(self.rings, self.rotation)
        self.administration = Administration(self.ledger, self.rings, world.keys, self.clock)
        self.signing = Signing(self.rings, self.signers, world.rules, self.clock)
        self.publishing = Publishing(self.rings, self.clock)
        self.readiness = Readiness(self.rings)

    def goes_by(self, issuer: str) -> bool:
        """Whether it has a ring of this issuer that it may use now."""
        try:
            self.rings.current(issuer)
        except UnavailableError:
            return False
        return True

    def holds(self, issuer: str, kid: str) -> bool:
        """Whether it has this private key."""
        try:
            self.signers.find(issuer, kid)
        except UnavailableError:
            return False
        return True


async def new_world(*issuers: str) -> World:
    """A deployment with these new issuers, or with contoso alone, of which no replica knows yet."""
    world = World()
    for issuer in issuers or ("contoso",):
        await world.add_issuer(issuer)
    return world


def signer_of(ring: Ring, clock: ManualClock) -> Key:
    key = signer(ring, clock.now())
    assert key is not None, "nothing may sign"
    return key


def standby_of(ring: Ring, clock: ManualClock) -> Key:
    key = standby(ring, clock.now())
    assert key is not None, "there is no standby"
    return key
