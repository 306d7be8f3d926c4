"""An RSA public key and the shapes in which the world reads it."""

import base64
import hashlib
import json
from dataclasses import dataclass

_RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d010101" + "0500")
"""The DER of rsaEncryption with its NULL parameters (RFC 8017, appendix A.1)."""


def base64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The two integers that are the key."""

    modulus: int
    exponent: int

    def members(self) -> dict[str, str]:
        """The required members of its JWK (RFC 7518, section 6.3.1)."""
        return {"e": _base64url_uint(self.exponent), "kty": "RSA", "n": _base64url_uint(self.modulus)}

    def thumbprint(self) -> str:
        """Its SHA-256 thumbprint (RFC 7638): the `kid`, the same wherever and whenever it is computed."""
        canonical = json.dumps(self.members(), sort_keys=True, separators=(",", ":"))
        return base64url(hashlib.sha256(canonical.encode("ascii")).digest())

    def pem(self) -> str:
        """Its SubjectPublicKeyInfo (RFC 5280, section 4.1) in the textual encoding of RFC 7468, with a final
        newline.
        """
        numbers = _der(0x30, _der_integer(self.modulus) + _der_integer(self.exponent))
        info = _der(0x30, _der(0x30, _RSA_ENCRYPTION) + _der(0x03, b"\x00" + numbers))
        text = base64.b64encode(info).decode("ascii")
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


def _base64url_uint(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _der_integer(value: int) -> bytes:
    # One bit more than the number needs, so that the first bit, the sign, is 0.
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:  # noqa: PLR2004 - the short form of X.690, 8.1.3.4
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content
