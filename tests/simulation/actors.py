"""Who takes part in a history: replicas, whose processes come and go, and operators."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from datetime import timedelta
from random import Random
from typing import Any, Protocol

from keyturn_server.administration import Administration, Mutation
from keyturn_server.domain.callers import Caller
from keyturn_server.domain.claims import TokenRequest, TokenRules
from keyturn_server.domain.errors import KeyturnError, UnavailableError
from keyturn_server.domain.plans import Plan
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.ring import (
    Key,
    Ring,
    deactivates_at,
    published,
    published_until,
    signer,
    standby,
)
from keyturn_server.ledger import Ledger
from keyturn_server.maintenance import Maintenance
from keyturn_server.publishing import Publishing
from keyturn_server.readiness import Readiness
from keyturn_server.rings import Rings
from keyturn_server.rotation import Rotation
from keyturn_server.signers import Signers
from keyturn_server.signing import Signing
from tests.doubles import HmacSeal
from tests.simulation.keys import SimulatedKeys
from tests.simulation.oracle import Oracle
from tests.simulation.policies import changed_policy
from tests.simulation.store import Connection
from tests.simulation.world import TICK, ReplicaClock, Trace, ViolationError, VirtualLoop, seconds

ISSUER = "contoso"
ISS = "https://contoso.example"
CALLER = Caller(identity="spiffe://shop/web", issuers=frozenset({ISSUER}))
RULES = {ISSUER: TokenRules(default_lifetime=timedelta(days=3650))}
"""A request without a lifetime gets the longest that the key allows."""

RUNNING: ContextVar["Process | None"] = ContextVar("RUNNING", default=None)
"""The process that is at work."""


class Stage(Protocol):
    """What all actors share."""

    loop: VirtualLoop
    random: Random
    trace: Trace
    oracle: Oracle
    keys: SimulatedKeys
    seal: HmacSeal

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begins something. If it fails, the history has failed."""

    def connect(self, die: Callable[[], None]) -> Connection:
        """A connection to the store for one process."""

    def died(self, process: "Process") -> None:
        """A process has ended."""


class Process:
    """One life of a replica: it begins with an empty memory and ends at once, wherever it is."""

    def __init__(self, stage: Stage, name: str, clock: ReplicaClock, poll: float) -> None:
        self.name = name
        self.clock = clock
        self.alive = True
        self.store = stage.connect(self.kill)
        self.ledger = Ledger(self.store, stage.seal)
        self.signers = Signers(self.store, stage.keys)
        self.rings = Rings(self.ledger, self.signers, clock)
        self.store.held = lambda: self.rings.version(ISSUER)
        self.rotation = Rotation(self.ledger, self.rings, stage.keys, clock, stage.random.random)
        self.maintenance = Maintenance(self.rings, self.rotation)
        self.administration = Administration(self.ledger, self.rings, stage.keys, clock)
        self.signing = Signing(self.rings, self.signers, RULES, clock)
        self.publishing = Publishing(self.rings, clock)
        self.readiness = Readiness(self.rings)
        self._stage = stage
        self.poll = poll
        self._tasks: list[asyncio.Task[None]] = []
        self._used_version = 0
        self._instants: tuple[Ring | None, Sequence[float]] = (None, ())

    def start(self) -> None:
        self._stage.trace.tell(self.name, f"starts, with a clock that is {self.clock.error:+.3f} s off")
        self.run(self._heartbeat())
        self.run(self._be_used())

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begins something that ends with the process at the latest."""

        async def here() -> None:
            RUNNING.set(self)
            await work

        task = self._stage.spawn(here())
        self._tasks = [each for each in self._tasks if not each.done()] + [task]
        return task

    def kill(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._stage.trace.tell(self.name, "is killed")
        for task in self._tasks:
            task.cancel()
        self._stage.died(self)

    async def _heartbeat(self) -> None:
        await asyncio.sleep(self.poll * self._stage.random.random() / 4)
        await self.maintenance.run(timedelta(seconds=self.poll), self._after_step)

    async def _after_step(self) -> None:
        if self.rings.version(ISSUER) != self._used_version:
            self.use()

    async def _be_used(self) -> None:
        """Signs and publishes all the time, and at every instant at which a replica may do something new."""
        while True:
            await asyncio.sleep(self._next_use() - self._stage.loop.time())
            self.use()

    def _next_use(self) -> float:
        now = self._stage.loop.time()
        held = self.rings._held.get(ISSUER)
        sometime = now + self.poll * self._stage.random.uniform(0.3, 8)
        if held is None:
            return sometime
        if self._instants[0] is not held.ring:
            self._instants = (held.ring, tuple(_instants(held.ring)))
        ends = [instant - self.clock.error for instant in self._instants[1]]
        ends.append(held.confirmed + held.ring.policy.signing_lease.total_seconds())
        aims = [aim for end in ends for aim in (end - TICK, end + TICK) if now + TICK / 4 < aim < sometime]
        return min(aims, default=sometime)

    def use(self) -> None:
        """A caller asks for a token, and a cache for the documents."""
        try:
            ring = self.rings.current(ISSUER)
        except KeyturnError:
            ring = None
        self._used_version = self.rings.version(ISSUER)
        self.sign(ring)
        self.publish(ring)

    def sign(self, ring: Ring | None) -> bool:
        oracle = self._stage.oracle
        try:
            token = self.signing.sign(CALLER, TokenRequest(subject="customer"))
        except UnavailableError as error:
            oracle.refused(self.name, ring, error)
            return False
        if ring is None:
            raise ViolationError(f"signing lease: {self.name} signs without a ring that it may go by")
        oracle.signed(self.name, self.clock.error, ring, token)
        return True

    def publish(self, ring: Ring | None) -> bool:
        oracle = self._stage.oracle
        try:
            documents = self.publishing.documents(ISSUER)
        except KeyturnError:
            return False
        if ring is None:
            raise ViolationError(f"signing lease: {self.name} publishes without a ring that it may go by")
        oracle.fetched(self.name, ring, documents)
        return True


def _instants(ring: Ring) -> list[float]:
    """When something changes while the ring stays as it is, in seconds since the history began."""
    times = {ring.retired_at}
    for key in ring.keys[-8:]:
        if key.revoked_at is None:
            times |= {key.activates_at, published_until(ring, key)}
            if key.destroyed_at is None and (deactivated := deactivates_at(ring, key)):
                times.add(deactivated + 2 * ring.policy.clock_tolerance)
    return sorted({seconds(time) for time in times if time is not None})


class Operator:
    """Somebody with the command line, who does things at bad moments, by whichever replica answers."""

    def __init__(self, stage: Stage, *, may_force: bool, may_apply: bool) -> None:
        self._stage = stage
        self._may_force = may_force
        self._may_apply = may_apply
        self._number = 0
        self.commands: Counter[str] = Counter()
        """What came of them."""

    async def one_command(self, process: Process) -> None:
        """Looks, decides, does it, and where the answer was lost repeats it."""
        random, trace = self._stage.random, self._stage.trace
        self._number += 1
        command = f"command {self._number}"
        try:
            ring = await process.administration.ring(ISSUER)
        except KeyturnError as error:
            trace.tell("operator", f"sees nothing by {process.name}: {error.message}")
            return
        await asyncio.sleep(random.choice((0.0, random.random())) * ring.policy.clock_tolerance.total_seconds())
        mutation = Mutation(
            issuer=ISSUER,
            actor="operator",
            expected_ring_version=ring.version,
            validate_only=random.random() < 0.05,
            force=self._may_force and random.random() < 0.4,
            reason=command,
        )
        act = self._choose(process, ring, mutation)
        for _ in range(3):
            try:
                plan = await act()
            except UnavailableError as error:
                trace.tell("operator", f"{command} by {process.name}: no answer ({error.message})")
                self.commands["not answered"] += 1
                continue
            except KeyturnError as error:
                trace.tell("operator", f"{command} by {process.name}: {self._stage.oracle.told(error.message)}")
                self.commands[f"refused: {error.reason}"] += 1
            else:
                told = "; ".join(step.description for step in plan.steps[:2])
                only = "only planned" if mutation.validate_only else "done"
                self.commands["planned" if mutation.validate_only else plan.ring.change.action.split(" ")[0]] += 1
                trace.tell("operator", f"{command} by {process.name}: {only}: {told}")
            return

    def _choose(self, process: Process, ring: Ring, mutation: Mutation) -> Callable[[], Coroutine[Any, Any, Plan]]:
        random = self._stage.random
        administration = process.administration
        policy = (
            changed_policy(random, ring.policy, 1.5 * process.poll)
            if self._may_apply and random.random() < 0.25
            else None
        )
        if policy is not None:
            return lambda: self._apply(administration, mutation, policy)
        draw = random.random()
        if draw < 0.5:
            return lambda: administration.rotate(mutation)
        kid = self._victim(ring, process).kid
        return lambda: administration.revoke(mutation, kid)

    def _apply(self, administration: Administration, mutation: Mutation, policy: Policy) -> Coroutine[Any, Any, Plan]:
        return administration.apply(mutation, ISS, policy)

    def _victim(self, ring: Ring, process: Process) -> Key:
        now = process.clock.now()
        candidates = [
            signer(ring, now),
            standby(ring, now),
            self._stage.random.choice(published(ring, now) or ring.keys),
        ]
        return next(key for key in self._stage.random.sample(candidates, len(candidates)) if key is not None)
