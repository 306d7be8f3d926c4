"""The three public documents of an issuer, as functions of (ring, now).

Their bytes stay the same until `valid_until`, so they are rendered once for each change and each boundary of a ring,
and any two replicas that hold the same ring render the same bytes.
"""

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keyturn_server.domain.ring import Key, Ring, known_at, published, published_until, signer

PEM_TYPE = "text/plain; charset=us-ascii"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Document:
    """Bytes to publish, their media type and a strong entity tag made of the bytes alone (RFC 9110, section 8.8.3)."""

    body: bytes
    content_type: str
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """All documents of one issuer at one instant; they list the same keys."""

    ring_version: int
    max_age: timedelta
    """How long a shared cache may hold any of them."""
    valid_until: datetime | None
    """When the bytes next change while the ring stays as it is. None: never."""
    jwks: Document
    """The JSON Web Key Set (RFC 7517, section 5)."""
    key_array: Document
    """The array of Microsoft's page "Send authentication token": kid, base64 of the whole PEM text, expiry."""
    pem: Document | None
    """The signer alone. A verifier that uses it cannot survive a rotation. None: nothing may sign now."""


def render(ring: Ring, now: datetime) -> Documents:
    """The documents of this instant."""
    keys = published(ring, now)
    current = signer(ring, now)
    return Documents(
        ring_version=ring.version,
        max_age=ring.policy.document_max_age,
        valid_until=_next_boundary(ring, now),
        jwks=_document(_json({"keys": [_jwk(key) for key in keys]}), "application/json"),
        key_array=_document(_json([_array_entry(ring, key, now) for key in keys]), "application/json"),
        pem=None if current is None else _document(current.public_key.pem().encode("ascii"), PEM_TYPE),
    )


def expiry(ring: Ring, key: Key, now: datetime) -> int:
    """The array's `expiry` in seconds since the epoch: the end of the key's publication plus the propagation window.

    While no successor is dated, that end is reckoned from the time at which one could take over at the earliest: on
    schedule or, for an overdue signer, from now (in steps of the window, so that bytes stay put). So it never passes
    while the key may sign.
    """
    policy = ring.policy
    until = published_until(ring, key)
    if until is None:
        soonest = _round_up(now, policy.propagation_window)
        takeover = max((key.activates_at or soonest) + policy.rotation_period, soonest)
        until = takeover + policy.coverage(key.max_lifetime)
    return math.ceil((known_at(ring, until) - _EPOCH) / timedelta(seconds=1))


def _next_boundary(ring: Ring, now: datetime) -> datetime | None:
    keys = published(ring, now)
    ends = [published_until(ring, key) for key in keys]
    times = [time for time in (*ends, *(key.activates_at for key in keys), ring.retired_at) if time and time > now]
    if None in ends:
        times.append(_round_up(now, ring.policy.propagation_window))
    return min(times, default=None)


def _round_up(now: datetime, step: timedelta) -> datetime:
    """The first multiple of `step` since the epoch that lies after `now`."""
    return _EPOCH + ((now - _EPOCH) // step + 1) * step


def _jwk(key: Key) -> dict[str, str]:
    return {**key.public_key.members(), "alg": "RS256", "kid": key.kid, "use": "sig"}


def _array_entry(ring: Ring, key: Key, now: datetime) -> dict[str, Any]:
    pem = key.public_key.pem().encode("ascii")
    return {
        "expiry": expiry(ring, key, now),
        "kid": key.kid,
        "publicKey": base64.b64encode(pem).decode("ascii"),
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _document(body: bytes, content_type: str) -> Document:
    return Document(body, content_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
