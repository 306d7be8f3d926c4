"""Rings in and out of the store, each version signed on its way in and checked on its way out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from keyturn_server.domain.errors import RowRefusedError
from keyturn_server.domain.ring import Ring
from keyturn_server.domain.ring_codec import decode_ring, encode_ring
from keyturn_server.ports import RingSeal, SealedRing, Store, WrappedKey


@dataclass(frozen=True, slots=True)
class Reading:
    """What a look into the store gave: rings that can be trusted, and rows that cannot, by issuer."""

    rings: Mapping[str, Ring]
    refused: Mapping[str, RowRefusedError]


class Ledger:
    """The history of all rings. What it gives was written by a holder of the integrity key, under that name and
    version.
    """

    def __init__(self, store: Store, seal: RingSeal) -> None:
        self._store = store
        self._seal = seal

    async def newest_versions(self) -> Mapping[str, int]:
        """The newest version of each issuer's ring, as the store says: unchecked until it is read."""
        return await self._store.newest_versions()

    async def read(self, issuers: Collection[str]) -> Reading:
        """The newest ring of each of these issuers."""
        rings: dict[str, Ring] = {}
        refused: dict[str, RowRefusedError] = {}
        if not issuers:
            return Reading(rings, refused)
        for row in await self._store.newest_rings(issuers):
            try:
                rings[row.issuer] = self._open(row)
            except RowRefusedError as error:
                refused[row.issuer] = error
        return Reading(rings, refused)

    async def append(self, ring: Ring, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        """Appends a version with the private keys that it adds, and removes those that it destroys: all or nothing.

        Raises `RingChangedError` when another change came first.
        """
        body = encode_ring(ring)
        sealed = SealedRing(ring.issuer, ring.version, body, self._seal.seal(body))
        await self._store.append(sealed, add=add, remove=remove)

    def _open(self, row: SealedRing) -> Ring:
        name = f"ring_versions ({row.issuer}, {row.version})"
        if not self._seal.check(row.body, row.signature):
            raise RowRefusedError(name, "its body is not what the integrity key signed")
        try:
            ring = decode_ring(row.body)
        except ValueError as error:
            raise RowRefusedError(name, str(error)) from error
        if (ring.issuer, ring.version) != (row.issuer, row.version):
            raise RowRefusedError(name, f"its body is that of ({ring.issuer}, {ring.version})")
        return ring
