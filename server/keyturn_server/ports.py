"""The seams of the service: small interfaces, named for their role, between the use cases and what they use.

Adapters implement them; `tests/contract` holds the one suite that every store must pass.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from keyturn_server.domain.public_key import PublicKey


@dataclass(frozen=True, slots=True)
class SealedRing:
    """A version of a ring as it rests: `ring_codec` bytes and the integrity key's signature of them."""

    issuer: str
    version: int
    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A private key as it rests: encrypted under the key encryption key that `kek_id` names."""

    issuer: str
    kid: str
    kek_id: str
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What `init` leaves in a store once, and without which it is nobody's store."""

    store_id: str
    kek_id: str
    canary: bytes = field(repr=False)
    """Known bytes under the KEK: proof, at the start, that the configured one is the right one."""
    integrity_key: bytes = field(repr=False)
    """The private half of the integrity key, under the KEK."""


class Store(Protocol):
    """Append-only rings and the wrapped private keys that belong to them.

    Every method raises `UnavailableError` when the store cannot be reached; then a change may or may not have been
    made, and the next look tells.
    """

    async def read_stamp(self) -> Stamp | None:
        """The stamp, or None in a store that was never set up."""

    async def write_stamp(self, stamp: Stamp) -> None:
        """Stamps a new store. Raises `RefusedError` in one that is stamped already."""

    async def newest_versions(self) -> Mapping[str, int]:
        """The newest version of each issuer's ring."""

    async def newest_rings(self, issuers: Collection[str]) -> Sequence[SealedRing]:
        """The newest version of the ring of each of these issuers that has one, in the order of their identifiers."""

    async def append(self, ring: SealedRing, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        """Appends one version of a ring, adds and removes private keys of its issuer: all of it or nothing, durably.

        Raises `RingChangedError` when the issuer's newest version is not `ring.version - 1`, `RefusedError` for a kid
        that is there or ever was, and ValueError for a key of another issuer.
        """

    async def wrapped_keys(self, issuer: str) -> Sequence[WrappedKey]:
        """The private keys of an issuer that have not been removed, in the order of their kids."""

    async def close(self) -> None:
        """Lets go of every connection. The store cannot be used afterwards."""


class RingSeal(Protocol):
    """Signs and checks the bytes of rings with the integrity key."""

    def seal(self, body: bytes) -> bytes:
        """The signature of a ring's bytes."""

    def check(self, body: bytes, signature: bytes) -> bool:
        """Whether the integrity key signed these bytes."""


class TokenSigner(Protocol):
    """One private key, decrypted, that signs tokens."""

    def sign(self, payload: bytes) -> str:
        """The token: the compact serialisation of a JWS with exactly the header members alg (RS256), kid and typ
        (JWT).
        """


class PrivateKeys(Protocol):
    """Makes private keys and takes them out of their wrapping. Both take CPU: call them on a thread."""

    def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
        """A new RSA key of `key_size` bits with exponent 65537."""

    def wrap(self, issuer: str, private_key: bytes) -> tuple[PublicKey, WrappedKey]:
        """An existing RSA key (PKCS #8, DER), to be kept for this issuer.

        Raises `InvalidRequestError` for one that is too small, has another exponent than 65537, or is no such key.
        """

    def unwrap(self, key: WrappedKey, public_key: PublicKey) -> TokenSigner:
        """The signer of a wrapped key, proven by a signature that `public_key` verifies.

        Raises `RowRefusedError` for bytes that this KEK did not wrap for this issuer and kid.
        """


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> datetime:
        """The time of day, in UTC."""

    def elapsed(self) -> float:
        """Seconds on a clock that never steps and runs on while the machine is suspended."""
