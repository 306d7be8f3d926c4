"""Builders of policies, keys and rings for tests.

Public keys are plain integers, numbered: key 0 is a new issuer's first signer, key 1 its standby, and the keys that
passes make go on from there. Times are told from one reference instant.
"""

import random
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from keyturn_server.domain.lifecycle import advance, due, first_ring
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import Change, Key, Ring

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

TICK = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

POLICY = Policy(
    rotation_period=30 * DAY,
    propagation_window=24 * HOUR,
    max_token_lifetime=HOUR,
    verifier_cache=12 * HOUR,
    document_max_age=5 * MINUTE,
    signing_lease=6 * HOUR,
    clock_tolerance=MINUTE,
)

SKEW = 2 * POLICY.clock_tolerance
"""How far two clocks may differ."""

TAKEOVER = NOW - SKEW + POLICY.rotation_period
"""When the standby of a ring that is new at `NOW` takes over on schedule."""


@cache
def public_key(number: int) -> PublicKey:
    modulus = random.Random(number).getrandbits(2048) | 1 << 2047 | 1
    return PublicKey(modulus=modulus, exponent=65537)


def kid(number: int) -> str:
    return public_key(number).thumbprint()


def key(number: int, **facts: Any) -> Key:
    """Key `number`, made at `NOW` under `POLICY`, of which nothing else is recorded than these facts."""
    made: dict[str, Any] = {"created_at": NOW, "max_lifetime": POLICY.max_token_lifetime}
    return Key(public_key=public_key(number), kid=kid(number), **(made | facts))


def change(made_at: datetime = NOW, *, actor: str = "operator", action: str = "", reason: str = "") -> Change:
    return Change(made_at=made_at, actor=actor, action=action, reason=reason)


def ring_of(*keys: Key, policy: Policy = POLICY, version: int = 7) -> Ring:
    return Ring(
        issuer="contoso", iss="https://contoso.example", version=version, policy=policy, keys=keys, change=change()
    )


def new_ring(policy: Policy = POLICY, now: datetime = NOW) -> Ring:
    """A new issuer's ring, as `init` makes it: no pass has read it back yet."""
    return first_ring("contoso", "https://contoso.example", policy, (public_key(0), public_key(1)), change(now))


def one_pass(ring: Ring, now: datetime) -> Ring:
    """The ring after one pass: the same one, unless something is due."""
    return advance(ring, now, public_key(len(ring.keys))) if due(ring, now) else ring


def settled(ring: Ring, now: datetime, *, within: int = 4) -> Ring:
    """The ring after as many passes as find something due now."""
    for _ in range(within):
        if not due(ring, now):
            return ring
        ring = one_pass(ring, now)
    assert not due(ring, now), f"still due after {within} passes: {due(ring, now)}"
    return ring
