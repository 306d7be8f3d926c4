"""The decrypted private keys of the rings in force. They live here, in the memory of the signing process, and nowhere
else.
"""

import asyncio

import structlog

from keyturn_server.domain.errors import RowRefusedError, UnavailableError
from keyturn_server.domain.ring import Key, Ring
from keyturn_server.ports import PrivateKeys, Store, TokenSigner, WrappedKey

log = structlog.get_logger(__name__)


class Signers:
    """Keeps a `TokenSigner` for each key that may still sign.

    A key that cannot be used is named in the log and missing here, so only its own issuer suffers; nothing is made in
    its place.
    """

    def __init__(self, store: Store, private_keys: PrivateKeys) -> None:
        self._store = store
        self._private_keys = private_keys
        self._signers: dict[str, dict[str, TokenSigner]] = {}
        self._refused: set[tuple[str, str]] = set()

    async def load(self, ring: Ring) -> None:
        """Takes the ring's private keys that are not here yet out of the store. Raises `UnavailableError` without
        it.
        """
        held = self._signers.setdefault(ring.issuer, {})
        missing = [key for key in ring.keys if _is_usable(key) and key.kid not in held]
        if not missing:
            return
        rows = {row.kid: row for row in await self._store.wrapped_keys(ring.issuer)}
        for key in missing:
            name = (ring.issuer, key.kid)
            try:
                held[key.kid] = await self._unwrap(ring.issuer, key, rows.get(key.kid))
                self._refused.discard(name)
            except RowRefusedError as error:
                if name not in self._refused:
                    log.error("private key refused", issuer=ring.issuer, kid=key.kid, row=error.row, why=error.message)
                self._refused.add(name)

    def retain(self, ring: Ring) -> None:
        """Lets go of the private keys that the ring says are destroyed or revoked."""
        usable = {key.kid for key in ring.keys if _is_usable(key)}
        held = self._signers.get(ring.issuer, {})
        self._signers[ring.issuer] = {kid: signer for kid, signer in held.items() if kid in usable}

    def find(self, issuer: str, kid: str) -> TokenSigner:
        """The signer of one key. Raises `UnavailableError` where it could not be loaded."""
        signer = self._signers.get(issuer, {}).get(kid)
        if signer is None:
            raise UnavailableError(
                f"the private key {kid} of issuer {issuer} cannot be used: the service's log names the reason",
                reason="KEY_UNUSABLE",
            )
        return signer

    async def _unwrap(self, issuer: str, key: Key, row: WrappedKey | None) -> TokenSigner:
        if row is None:
            raise RowRefusedError(f"private_keys ({issuer}, {key.kid})", "it is missing")
        return await asyncio.to_thread(self._private_keys.unwrap, row, key.public_key)


def _is_usable(key: Key) -> bool:
    return key.revoked_at is None and key.destroyed_at is None
