"""The integrity key: an Ed25519 key (RFC 8032) that signs every version of every ring.

Its private half rests under the KEK in the store's stamp. Its public half is pinned in the configuration, so whoever
reads rings can check them, with or without the KEK.
"""

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyturn_server.crypto.kek import Kek, Purpose, UnwrapError, associated_data
from keyturn_server.domain.errors import ConfigurationError

_RING_PREFIX = b"keyturn ring 1\x00"
"""So that a signature of a ring can never be taken for one of anything else that this key may sign one day."""

_KEY_BYTES = 32


class IntegrityVerifier:
    """The public half: checks rings and cannot sign any."""

    def __init__(self, public_key: Ed25519PublicKey) -> None:
        self._public_key = public_key

    @classmethod
    def from_text(cls, text: str) -> "IntegrityVerifier":
        """The verifier whose `public_text` this is. Raises `ConfigurationError` that names `integrity.public_key`."""
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _KEY_BYTES:
            raise ConfigurationError(
                f"integrity.public_key is not a public key: {_KEY_BYTES} bytes in base64, as `keyturn init` wrote them"
            )
        return cls(Ed25519PublicKey.from_public_bytes(raw))

    def __repr__(self) -> str:
        return f"IntegrityVerifier({self.public_text!r})"

    @property
    def public_text(self) -> str:
        """The base64 of the public key's 32 bytes (RFC 8032, section 5.1.5): what the configuration pins."""
        return base64.b64encode(self._public_key.public_bytes_raw()).decode("ascii")

    def check(self, body: bytes, signature: bytes) -> bool:
        """Whether the integrity key signed these bytes of a ring."""
        try:
            self._public_key.verify(signature, _RING_PREFIX + body)
        except InvalidSignature:
            return False
        return True


class IntegrityKey:
    """Both halves: signs rings and checks them."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.verifier = IntegrityVerifier(private_key.public_key())

    @classmethod
    def generate(cls) -> "IntegrityKey":
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def unwrap(cls, wrapped: bytes, kek: Kek, store_id: str) -> "IntegrityKey":
        """What `wrap` wrapped. Raises `UnwrapError` for bytes that this KEK did not wrap for this store."""
        raw = kek.unwrap(wrapped, associated_data(Purpose.INTEGRITY_KEY, store_id, kek.id))
        if len(raw) != _KEY_BYTES:
            raise UnwrapError
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    def __repr__(self) -> str:
        return f"IntegrityKey({self.public_text!r})"

    @property
    def public_text(self) -> str:
        """The public half, as `IntegrityVerifier.public_text`."""
        return self.verifier.public_text

    def wrap(self, kek: Kek, store_id: str) -> bytes:
        """The private half under the KEK, bound to one store."""
        return kek.wrap(self._private_key.private_bytes_raw(), associated_data(Purpose.INTEGRITY_KEY, store_id, kek.id))

    def seal(self, body: bytes) -> bytes:
        """The signature of a ring's bytes."""
        return self._private_key.sign(_RING_PREFIX + body)

    def check(self, body: bytes, signature: bytes) -> bool:
        """Whether this key signed these bytes of a ring."""
        return self.verifier.check(body, signature)
