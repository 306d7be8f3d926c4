"""The rings that this replica goes by: a snapshot of the store in memory, and the lease on which it may be used."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from keyturn_server.domain.errors import NotFoundError, RowRefusedError, UnavailableError
from keyturn_server.domain.ring import Ring
from keyturn_server.ledger import Ledger
from keyturn_server.ports import Clock
from keyturn_server.signers import Signers

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    ring: Ring
    confirmed: float
    """When the store last said that this is the newest version, on `Clock.elapsed`, taken before it was asked."""


def check_not_older(ring: Ring, seen: int) -> None:
    """Raises `RowRefusedError` for a ring of which this process has seen a later version before."""
    if ring.version < seen:
        row = f"ring_versions ({ring.issuer}, {ring.version})"
        raise RowRefusedError(row, f"the store went back: version {seen} was seen before")


def gone(issuer: str, seen: int) -> RowRefusedError:
    """What is wrong with an issuer of which this process has seen that version, and the store now has none."""
    return RowRefusedError(f"ring_versions ({issuer}, {seen})", "it was there, and the store no longer has it")


class Rings:
    """The newest ring of each issuer that could be trusted.

    Signing and publishing read it and never wait for the store. A ring that the store no longer confirms may be used
    for the signing lease of its policy; then `current` fails clearly. Versions never go back: a store that shows an
    older one, or none, is not believed.
    """

    def __init__(self, ledger: Ledger, signers: Signers, clock: Clock) -> None:
        self._ledger = ledger
        self._signers = signers
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._refused: dict[str, str] = {}
        self._refreshing = asyncio.Lock()
        self._refreshed = False

    @property
    def refreshed(self) -> bool:
        """Whether the store has been read at least once."""
        return self._refreshed

    def current(self, issuer: str) -> Ring:
        """The ring to go by. Raises `NotFoundError` for an unknown issuer, `UnavailableError` when its lease is
        over.
        """
        held = self._held.get(issuer)
        if held is None:
            if not self._refreshed:
                raise UnavailableError("the store has not been read yet", reason="NO_SNAPSHOT")
            if issuer in self._refused:
                raise UnavailableError(
                    f"the ring of issuer {issuer} cannot be trusted: see the log", reason="RING_REFUSED"
                )
            raise NotFoundError(f"there is no issuer {issuer}", reason="NO_SUCH_ISSUER")
        age = timedelta(seconds=self._clock.elapsed() - held.confirmed)
        if age > held.ring.policy.signing_lease:
            raise UnavailableError(
                f"the ring of issuer {issuer} was last confirmed by the store {age} ago, longer than its signing lease "
                f"({held.ring.policy.signing_lease}): the store must be reachable again",
                reason="SIGNING_LEASE_OVER",
                retry_after=timedelta(seconds=5),
            )
        return held.ring

    def all(self) -> Mapping[str, Ring]:
        """Every issuer's ring as it was last read, whatever its age."""
        return {issuer: held.ring for issuer, held in self._held.items()}

    def confirmed(self) -> Mapping[str, Ring]:
        """The rings that the store, when it was last read, showed as the newest: the only ones to build upon."""
        return {issuer: ring for issuer, ring in self.all().items() if issuer not in self._refused}

    def version(self, issuer: str) -> int:
        """The version of the ring that is held; 0 where there is none."""
        held = self._held.get(issuer)
        return 0 if held is None else held.ring.version

    async def refresh(self) -> None:
        """Reads what has changed in the store, and loads the private keys that go with it.

        Raises `UnavailableError` when the store does not answer; then everything stays as it was.
        """
        async with self._refreshing:
            asked = self._clock.elapsed()
            newest = await self._ledger.newest_versions()
            changed = [issuer for issuer, version in newest.items() if version != self.version(issuer)]
            reading = await self._ledger.read(changed)
            for issuer, error in reading.refused.items():
                self._refuse(issuer, error)
            for issuer, ring in reading.rings.items():
                await self._adopt(issuer, ring, asked, newest[issuer])
            for issuer in self._held.keys() - newest.keys():
                self._refuse(issuer, gone(issuer, self.version(issuer)))
            for issuer in newest.keys() & self._held.keys() - set(changed):
                self._held[issuer] = _Held(self._held[issuer].ring, asked)
                self._refused.pop(issuer, None)
            self._refreshed = True
            for ring in self.confirmed().values():
                # A private key that could not be used may be there by now.
                await self._signers.load(ring)

    async def _adopt(self, issuer: str, ring: Ring, asked: float, named: int) -> None:
        try:
            # An answer may also be older than the one before it, which named the newest version.
            check_not_older(ring, max(self.version(issuer), named))
        except RowRefusedError as error:
            self._refuse(issuer, error)
            return
        # The private keys first, so that the ring never names a signer that is not there yet.
        await self._signers.load(ring)
        self._held[issuer] = _Held(ring, asked)
        self._refused.pop(issuer, None)
        self._signers.retain(ring)
        log.info("ring in force", issuer=issuer, version=ring.version, by=ring.change.actor, change=ring.change.action)

    def _refuse(self, issuer: str, error: RowRefusedError) -> None:
        if self._refused.get(issuer) != error.message:
            log.error("ring refused", issuer=issuer, row=error.row, why=error.message)
        self._refused[issuer] = error.message
