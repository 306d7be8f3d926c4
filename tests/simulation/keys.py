"""Private keys that cost nothing: numbered public keys, made once, and signatures that only look like it.

A signature here is a digest of the public key and the signed bytes. It tells which key signed what, and nothing else.
"""

import hashlib
import json
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import jwt

from keyturn_server.domain.errors import RowRefusedError
from keyturn_server.domain.public_key import PublicKey, base64url
from keyturn_server.ports import PrivateKeys, TokenSigner, WrappedKey
from tests.doubles import PooledKeys
from tests.rings import public_key


class SimulatedKeys(PrivateKeys, Protocol):
    """Private keys, and how a verifier checks what they sign."""

    def verify(self, token: str, jwk: Mapping[str, str]) -> Mapping[str, Any]:
        """The claims of a token. Raises ValueError for one that this key has not signed."""


@cache
def _numbered(number: int) -> tuple[PublicKey, str]:
    key = public_key(number)
    return key, key.thumbprint()


@cache
def _header(kid: str) -> str:
    return base64url(json.dumps({"alg": "RS256", "kid": kid, "typ": "JWT"}).encode())


def _signature(modulus: str, signed: str) -> str:
    return hashlib.sha256(f"{modulus}.{signed}".encode()).hexdigest()


@dataclass(frozen=True)
class _Signer:
    kid: str
    modulus: str

    def sign(self, payload: bytes) -> str:
        signed = f"{_header(self.kid)}.{base64url(payload)}"
        return f"{signed}.{_signature(self.modulus, signed)}"


class PremadeKeys:
    """Implements `SimulatedKeys`. `before` is called before anything that a thread would do."""

    KEK_ID = "premade"

    def __init__(self, before: Callable[[], None]) -> None:
        self.made = 0
        self._before = before

    def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
        self._before()
        key, kid = _numbered(self.made)
        self.made += 1
        return key, WrappedKey(issuer, kid, self.KEK_ID, f"{kid} of {issuer}".encode())

    def wrap(self, issuer: str, private_key: bytes) -> tuple[PublicKey, WrappedKey]:
        raise NotImplementedError

    def unwrap(self, key: WrappedKey, public_key: PublicKey) -> TokenSigner:
        self._before()
        if key.wrapped != f"{key.kid} of {key.issuer}".encode():
            raise RowRefusedError(f"private_keys ({key.issuer}, {key.kid})", "it was not wrapped for this place")
        return _Signer(key.kid, public_key.members()["n"])

    def verify(self, token: str, jwk: Mapping[str, str]) -> Mapping[str, Any]:
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        if header != _header(jwk["kid"]) or signature != _signature(jwk["n"], signed):
            raise ValueError(f"key {jwk['kid']} did not sign it")
        claims: dict[str, Any] = json.loads(urlsafe_b64decode(payload + "=="))
        return claims


class RealKeys(PooledKeys):
    """Real RSA keys out of a pool, and PyJWT. Implements `SimulatedKeys`."""

    def verify(self, token: str, jwk: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            if jwt.get_unverified_header(token) != {"alg": "RS256", "kid": jwk["kid"], "typ": "JWT"}:
                raise ValueError(f"its header does not name key {jwk['kid']}")
            claims: dict[str, Any] = jwt.decode(
                token,
                jwt.PyJWK(dict(jwk)),
                algorithms=["RS256"],
                # The machine's clock knows nothing of virtual time: the oracle looks at the times.
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise ValueError(str(error)) from error
        return claims
