"""A ring as bytes: what is signed and stored, one canonical form for one ring.

JSON with sorted members; times in RFC 3339 with microseconds, durations in seconds. `decode_ring` accepts exactly what
`encode_ring` writes.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from keyturn_server.domain.errors import PolicyError
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import Change, FormerPolicy, Key, Ring

FORMAT = 1

_T = TypeVar("_T")


def encode_ring(ring: Ring) -> bytes:
    document = {
        "change": {
            "action": ring.change.action,
            "actor": ring.change.actor,
            "made_at": _time(ring.change.made_at),
            "reason": ring.change.reason,
        },
        "format": FORMAT,
        "former_policies": [
            {"policy": _encode_policy(former.policy), "until": _time(former.until)} for former in ring.former_policies
        ],
        "iss": ring.iss,
        "issuer": ring.issuer,
        "keys": [_encode_key(key) for key in ring.keys],
        "policy": _encode_policy(ring.policy),
        "retired_at": _optional_time(ring.retired_at),
        "version": ring.version,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_ring(body: bytes) -> Ring:
    """The ring that `encode_ring` made these bytes of. Raises ValueError for any other bytes."""
    try:
        ring = _decode(json.loads(body))
        canonical = encode_ring(ring)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, PolicyError) as error:
        raise ValueError(f"not a ring of format {FORMAT}: {type(error).__name__}") from error
    if canonical != body:
        raise ValueError(f"not a ring of format {FORMAT} in its canonical form")
    return ring


def _encode_policy(policy: Policy) -> dict[str, Any]:
    return {
        field.name: value.total_seconds() if isinstance(value, timedelta) else value
        for field in fields(policy)
        for value in [getattr(policy, field.name)]
    }


def _encode_key(key: Key) -> dict[str, Any]:
    return {
        "activates_at": _optional_time(key.activates_at),
        "created_at": _time(key.created_at),
        "destroyed_at": _optional_time(key.destroyed_at),
        "exponent": key.public_key.exponent,
        "forced": key.forced,
        "kid": key.kid,
        "max_lifetime": key.max_lifetime.total_seconds(),
        "modulus": f"{key.public_key.modulus:x}",
        "published_at": _optional_time(key.published_at),
        "reason": key.reason,
        "revoked_at": _optional_time(key.revoked_at),
    }


def _decode(document: Mapping[str, Any]) -> Ring:
    if document["format"] != FORMAT:
        raise ValueError(f"a ring of format {document['format']!r}; this version of keyturn reads format {FORMAT}")
    change = document["change"]
    return Ring(
        issuer=_typed(str, document["issuer"]),
        iss=_typed(str, document["iss"]),
        version=_typed(int, document["version"]),
        policy=_decode_policy(document["policy"]),
        keys=tuple(_decode_key(key) for key in document["keys"]),
        change=Change(
            made_at=_parse(change["made_at"]),
            actor=_typed(str, change["actor"]),
            action=_typed(str, change["action"]),
            reason=_typed(str, change["reason"]),
        ),
        former_policies=tuple(
            FormerPolicy(_decode_policy(former["policy"]), _parse(former["until"]))
            for former in document["former_policies"]
        ),
        retired_at=_optional_parse(document["retired_at"]),
    )


def _decode_policy(policy: Mapping[str, Any]) -> Policy:
    values: dict[str, Any] = {
        field.name: timedelta(seconds=value) if field.type is timedelta else _typed(int, value)
        for field in fields(Policy)
        for value in [policy[field.name]]
    }
    return Policy(**values)


def _decode_key(key: Mapping[str, Any]) -> Key:
    public_key = PublicKey(int(key["modulus"], 16), _typed(int, key["exponent"]))
    if public_key.thumbprint() != key["kid"]:
        raise ValueError(f"key {key['kid']!r} does not carry its own thumbprint")
    return Key(
        public_key=public_key,
        kid=key["kid"],
        created_at=_parse(key["created_at"]),
        max_lifetime=timedelta(seconds=key["max_lifetime"]),
        published_at=_optional_parse(key["published_at"]),
        activates_at=_optional_parse(key["activates_at"]),
        revoked_at=_optional_parse(key["revoked_at"]),
        destroyed_at=_optional_parse(key["destroyed_at"]),
        forced=_typed(bool, key["forced"]),
        reason=_typed(str, key["reason"]),
    )


def _typed(kind: type[_T], value: object) -> _T:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _optional_time(time: datetime | None) -> str | None:
    return None if time is None else _time(time)


def _parse(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _optional_parse(text: str | None) -> datetime | None:
    return None if text is None else _parse(text)
