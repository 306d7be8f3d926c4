"""A store in the memory of one process, for tests and simulations."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from keyturn_server.domain.errors import RefusedError, RingChangedError, UnavailableError
from keyturn_server.ports import SealedRing, Stamp, WrappedKey


@dataclass(slots=True)
class MemoryDatabase:
    """What several stores can share, as replicas share a database. It outlives them."""

    stamp: Stamp | None = None
    rings: dict[str, list[SealedRing]] = field(default_factory=dict)
    keys: dict[tuple[str, str], WrappedKey] = field(default_factory=dict)
    """By issuer and kid."""
    removed: set[tuple[str, str]] = field(default_factory=set)


class MemoryStore:
    """Implements `Store`. No method waits for anything, so each happens at once or not at all."""

    def __init__(self, database: MemoryDatabase | None = None) -> None:
        self._database = database or MemoryDatabase()
        self._closed = False

    async def read_stamp(self) -> Stamp | None:
        return self._open_database().stamp

    async def write_stamp(self, stamp: Stamp) -> None:
        database = self._open_database()
        if database.stamp is not None:
            raise RefusedError("the store is stamped already", reason="STORE_STAMPED")
        database.stamp = stamp

    async def newest_versions(self) -> Mapping[str, int]:
        return {issuer: versions[-1].version for issuer, versions in self._open_database().rings.items()}

    async def newest_rings(self, issuers: Collection[str]) -> Sequence[SealedRing]:
        rings = self._open_database().rings
        return [rings[issuer][-1] for issuer in sorted(set(issuers)) if issuer in rings]

    async def append(self, ring: SealedRing, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        """As `Store` has it.

        Raises `RefusedError` for a kid that the issuer has, or had: a key that was removed never comes back.
        """
        if any(key.issuer != ring.issuer for key in add):
            raise ValueError(f"a key of another issuer cannot come with a ring of {ring.issuer}")
        database = self._open_database()
        versions = database.rings.get(ring.issuer, [])
        if ring.version != len(versions) + 1:
            raise RingChangedError(ring.issuer, ring.version - 1)
        removed = database.removed | (database.keys.keys() & {(ring.issuer, kid) for kid in remove})
        keys = {place: key for place, key in database.keys.items() if place not in removed}
        for key in add:
            if (key.issuer, key.kid) in keys.keys() | removed:
                raise RefusedError(f"issuer {key.issuer} has or had a private key {key.kid}", reason="KEY_EXISTS")
            keys[key.issuer, key.kid] = key
        database.rings[ring.issuer] = [*versions, ring]
        database.keys, database.removed = keys, removed

    async def wrapped_keys(self, issuer: str) -> Sequence[WrappedKey]:
        keys = (key for key in self._open_database().keys.values() if key.issuer == issuer)
        return sorted(keys, key=lambda key: key.kid)

    async def close(self) -> None:
        self._closed = True

    def _open_database(self) -> MemoryDatabase:
        if self._closed:
            raise UnavailableError("the store is closed", reason="STORE_UNAVAILABLE")
        return self._database
