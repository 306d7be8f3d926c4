"""What the tests of this folder share."""

from dataclasses import dataclass

from keyturn_server.domain.public_key import PublicKey
from keyturn_server.ports import TokenSigner, WrappedKey

KEK_BYTES = bytes(range(100, 132))


@dataclass(frozen=True)
class GeneratedKey:
    """What `RsaPrivateKeys.generate` gave, and its signer."""

    public_key: PublicKey
    wrapped: WrappedKey
    signer: TokenSigner

    @property
    def kid(self) -> str:
        return self.public_key.thumbprint()


def flipped(data: bytes, position: int) -> bytes:
    """The same bytes but for one bit of one."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
