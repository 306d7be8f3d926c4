"""Verifies a token against a public document, as a strict stranger would: nothing of the ring is known here.

The algorithm is RS256 and is never the token's choice (RFC 8725, section 3.1). JSON with duplicate members is refused,
since two parsers may read it differently.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import RSAAlgorithm

from keyturn_server.domain.claims import MAX_EXACT_INTEGER
from keyturn_server.domain.errors import KeyturnError
from keyturn_server.domain.public_key import base64url

_ALGORITHM = "RS256"
_LEAST_KEY_SIZE = 2048
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_SHOWN_LENGTH = 64

_JWS = jwt.PyJWS(algorithms=[_ALGORITHM])


class VerificationError(KeyturnError):
    """A token that the document does not prove. The message names the check that failed and never holds the token."""

    def __init__(self, check: str, why: str) -> None:
        super().__init__(f"{check}: {why}", reason="VERIFICATION_FAILED", metadata={"check": check})
        self.check = check


def verify_token(
    token: str,
    document: bytes,
    *,
    now: datetime,
    leeway: timedelta = timedelta(0),
    iss: str | None = None,
    audience: str | None = None,
) -> dict[str, Any]:
    """The claims of a token that a key of the document signed and that is valid at `now`, give or take `leeway`.

    `document` is a JWKS, an Omnichannel key array or a PEM public key. `iss` and `audience` are checked where they are
    given. Raises `VerificationError` at the first check that fails.
    """
    header = _json_object("header", _header_segment(token))
    _check_header(header)
    key = _find_key(document, header, now - leeway)
    try:
        payload: bytes = _JWS.decode(token, key, algorithms=[_ALGORITHM])
    except jwt.PyJWTError:
        raise VerificationError("signature", "it does not verify with the document's key") from None
    claims = _json_object("payload", payload)
    _check_times(claims, now.timestamp(), leeway.total_seconds())
    if iss is not None and claims.get("iss") != iss:
        raise VerificationError("iss", f"the token was not issued by {iss}")
    if audience is not None and audience not in _audiences(claims):
        raise VerificationError("aud", f"the token is not meant for {audience}")
    return claims


def _header_segment(token: str) -> bytes:
    """The first part of a compact JWS (RFC 7515, section 7.1), if each of the three has base64url's one form."""
    try:
        header, _payload, _signature = (_base64url_decode(segment) for segment in token.split("."))
    except ValueError:
        raise VerificationError("form", "a token is three parts in base64url, with a dot between them") from None
    return header


def _base64url_decode(segment: str) -> bytes:
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64url(data) != segment:
        raise ValueError("not canonical")
    return data


def _json_object(check: str, data: bytes) -> dict[str, Any]:
    value = _json(check, data)
    if not isinstance(value, dict):
        raise VerificationError(check, "it is not a JSON object")
    return value


def _json(check: str, data: bytes) -> Any:
    """Strict JSON (RFC 8259): UTF-8, no NaN or Infinity, no duplicate members."""

    def unique(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(members)
        if len(result) != len(members):
            raise VerificationError(check, "a JSON object in it has two members of one name")
        return result

    def refuse(constant: str) -> NoReturn:
        raise VerificationError(check, f"{constant} is not JSON")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise VerificationError(check, "it is not JSON") from None


def _check_header(header: Mapping[str, Any]) -> None:
    if header.get("alg") != _ALGORITHM:
        raise VerificationError("alg", f"the header's alg is not {_ALGORITHM}")
    if header.get("typ") != "JWT":
        raise VerificationError("typ", "the header's typ is not JWT")
    if not header.keys().isdisjoint({"crit", "b64"}):
        raise VerificationError("crit", "the header asks for an extension (RFC 7515, section 4.1.11); none is known")


def _find_key(document: bytes, header: Mapping[str, Any], now: datetime) -> RSAPublicKey:
    if document.lstrip().startswith(b"-----BEGIN"):
        return _read_pem(document)
    parsed = _json("document", document)
    if isinstance(parsed, dict) and isinstance(parsed.get("keys"), list):
        return _read_jwk(_find_entry(parsed["keys"], header))
    if isinstance(parsed, list):
        return _read_array_entry(_find_entry(parsed, header), now)
    raise VerificationError("document", "it is neither a JWKS nor an Omnichannel key array nor a PEM public key")


def _find_entry(entries: Sequence[Any], header: Mapping[str, Any]) -> Mapping[str, Any]:
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise VerificationError("kid", "the header has no kid, so it is not known which of the document's keys to use")
    found = [entry for entry in entries if isinstance(entry, dict) and entry.get("kid") == kid]
    if not found:
        raise VerificationError("kid", f"the document has no key {kid[:_SHOWN_LENGTH]!a} among its {len(entries)}")
    if len(found) > 1:
        raise VerificationError("document", f"it has {len(found)} keys of the token's kid")
    return found[0]


def _read_jwk(entry: Mapping[str, Any]) -> RSAPublicKey:
    if not _PRIVATE_MEMBERS.isdisjoint(entry):
        raise VerificationError("document", "it holds the private half of the token's key, for all to see: revoke it")
    if entry.get("use", "sig") != "sig" or entry.get("alg", _ALGORITHM) != _ALGORITHM:
        raise VerificationError("document", f"it does not offer the token's key for {_ALGORITHM} signatures")
    try:
        return _checked(RSAAlgorithm.from_jwk(dict(entry)))
    except (jwt.PyJWTError, ValueError, TypeError):
        raise VerificationError("document", "the token's key in it is not an RSA public key") from None


def _read_array_entry(entry: Mapping[str, Any], now: datetime) -> RSAPublicKey:
    if _number("document", entry, "expiry") <= now.timestamp():
        raise VerificationError("document", "the expiry of the token's key in it has passed")
    try:
        pem = base64.b64decode(entry.get("publicKey", ""), validate=True)
    except (ValueError, TypeError):
        raise VerificationError("document", "the publicKey of the token's key in it is not base64") from None
    return _read_pem(pem)


def _read_pem(pem: bytes) -> RSAPublicKey:
    try:
        return _checked(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm):
        raise VerificationError("document", "the token's key in it is not an RSA public key in PEM") from None


def _checked(key: object) -> RSAPublicKey:
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not an RSA public key")  # noqa: TRY004 - what the loaders raise too
    if key.key_size < _LEAST_KEY_SIZE:
        raise VerificationError("document", f"the token's key in it has less than {_LEAST_KEY_SIZE} bits")
    return key


def _check_times(claims: Mapping[str, Any], now: float, leeway: float) -> None:
    """RFC 7519, sections 4.1.4 to 4.1.6: a token is dead from exp on, and not valid before nbf."""
    expired_for = now - leeway - _number("exp", claims, "exp")
    if expired_for >= 0:
        raise VerificationError("exp", f"the token expired {expired_for + leeway:.0f} seconds ago")
    if "iat" in claims:
        _number("iat", claims, "iat")
    if "nbf" in claims:
        valid_in = _number("nbf", claims, "nbf") - leeway - now
        if valid_in > 0:
            raise VerificationError("nbf", f"the token is not valid for another {valid_in + leeway:.0f} seconds")


def _number(check: str, members: Mapping[str, Any], name: str) -> float:
    value = members.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_EXACT_INTEGER:
        raise VerificationError(check, f"{name} must be a number of seconds since the epoch")
    return float(value)


def _audiences(claims: Mapping[str, Any]) -> Sequence[Any]:
    audience = claims.get("aud")
    return audience if isinstance(audience, list) else [audience]
