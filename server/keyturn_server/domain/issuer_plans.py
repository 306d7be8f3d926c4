"""Changes of an issuer as a whole: its making, another policy, its retirement."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime

from keyturn_server.domain.errors import FieldViolation, InvalidRequestError, RefusedError
from keyturn_server.domain.lifecycle import first_ring
from keyturn_server.domain.names import check_iss, check_issuer_id
from keyturn_server.domain.plans import Plan, Step, check_change, check_reason, check_room, next_version
from keyturn_server.domain.policy import MAX_SCHEDULED_KEYS, Policy
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import (
    Change,
    FormerPolicy,
    Key,
    KeyState,
    Ring,
    covered_until,
    known_at,
    published,
    state,
)

FIRST_KEYS = 2
"""How many keys an issuer begins with: a signer and a standby."""

_REMEMBERED = ("propagation_window", "document_max_age", "signing_lease", "clock_tolerance")
"""What was made under a longer one of these lives by it after it has been lowered."""


def plan_issuer(issuer: str, iss: str, policy: Policy, change: Change, keys: Sequence[PublicKey] = ()) -> Plan:
    """Makes an issuer: its first key signs at once, its second is the standby. With fewer `keys`, the plan alone."""
    check_reason(change)
    _check_names(issuer, iss)
    if len(keys) == FIRST_KEYS:
        ring = first_ring(issuer, iss, policy, (keys[0], keys[1]), change)
    else:
        ring = Ring(issuer=issuer, iss=iss, version=1, policy=policy, keys=(), change=change)
    first, second = ([key.thumbprint() for key in keys] + [""] * FIRST_KEYS)[:FIRST_KEYS]
    steps = (
        Step(first, change.made_at, "signs from now on: the first signer of a new issuer"),
        Step(second, change.made_at, "is its standby, published by the next pass"),
    )
    return Plan(before=None, ring=ring, steps=steps, new_keys=FIRST_KEYS - len(keys))


def _check_names(issuer: str, iss: str) -> None:
    violations = []
    for field, check, value in (("issuer", check_issuer_id, issuer), ("iss", check_iss, iss)):
        try:
            check(value)
        except ValueError as error:
            violations.append(FieldViolation(field, str(error)))
    if violations:
        raise InvalidRequestError(violations)


def plan_policy(ring: Ring, iss: str, policy: Policy, change: Change) -> Plan:
    """Puts another policy in force. What is raised counts at once.

    What is lowered counts for new tokens and keys at once, and for what was made under the old value never: verifiers
    use documents for as long as it said, replicas that are cut off sign by it, keys stay published for it. The `iss`
    of an issuer cannot change.
    """
    check_change(ring, change)
    now = change.made_at
    if iss != ring.iss:
        raise RefusedError(
            f"issuer {ring.issuer} has iss {ring.iss!r}, and its tokens say so: make another issuer for {iss!r}",
            reason="ISS_CHANGED",
        )
    if policy == ring.policy:
        return Plan(before=ring, ring=ring, steps=())
    former = ring.former_policies
    if any(getattr(policy, name) < getattr(ring.policy, name) for name in _REMEMBERED):
        former = (*(each for each in former if _still_counts(ring, each, now)), FormerPolicy(ring.policy, now))
    after = replace(next_version(ring, ring.keys, change), policy=policy, former_policies=former)
    after = replace(after, keys=tuple(_under(after, key, now) for key in after.keys))
    check_room(ring, now, len(published(after, now)) - 2 + policy.most_published_keys, MAX_SCHEDULED_KEYS)
    steps = [*_policy_steps(ring, after, now), *_redating_steps(ring, after)]
    return Plan(before=ring, ring=after, steps=tuple(steps))


def plan_retirement(ring: Ring, change: Change) -> Plan:
    """Lets an issuer sign no more. Its documents stay until its last token is dead; it cannot come back."""
    check_change(ring, change, reason_needed_for="retirement")
    now = change.made_at
    after = replace(next_version(ring, ring.keys, change), retired_at=now)
    withdrawn = covered_until(after, now, max(key.max_lifetime for key in published(after, now)))
    steps = (
        Step("", now, "the issuer signs no more: every request for it fails"),
        Step("", now + 2 * ring.policy.clock_tolerance, "its private keys are destroyed"),
        Step("", withdrawn, "its last token is dead: its documents are gone"),
    )
    return Plan(before=ring, ring=after, steps=steps)


def _under(ring: Ring, key: Key, now: datetime) -> Key:
    """A key under a policy that has just come into force: what it raised counts for the keys that sign or will sign."""
    if key.revoked_at is not None or state(ring, key, now) not in {KeyState.PRE_ACTIVE, KeyState.ACTIVE}:
        return key
    longest = max(key.max_lifetime, ring.policy.max_token_lifetime)
    if key.published_at is None or key.activates_at is None or key.activates_at <= now:
        return replace(key, max_lifetime=longest)
    known = known_at(ring, key.published_at)
    return replace(key, max_lifetime=longest, activates_at=max(key.activates_at, known))


def _still_counts(ring: Ring, former: FormerPolicy, now: datetime) -> bool:
    longest = max(key.max_lifetime for key in ring.keys)
    return now < former.until + max(former.policy.propagation_window, former.policy.coverage(longest))


def _policy_steps(before: Ring, after: Ring, now: datetime) -> list[Step]:
    """A step for each setting that changes: from what to what, and from when it counts."""
    steps = []
    for field in fields(Policy):
        old, new = getattr(before.policy, field.name), getattr(after.policy, field.name)
        if old != new:
            description = f"{field.name} changes from {old} to {new}"
            if field.name in {"rotation_period", "key_size"}:
                description += ", for the standbys that are made from now on"
            elif new < old:
                description += "; what was made before lives by the old one until then"
                steps.append(Step("", now + before.policy.propagation_window, description))
                continue
            steps.append(Step("", now, description))
    return steps


def _redating_steps(before: Ring, after: Ring) -> list[Step]:
    return [
        Step(new.kid, new.activates_at, "signs from then on, later than planned, so that every verifier knows it")
        for old, new in zip(before.keys, after.keys, strict=True)
        if new.activates_at is not None and old.activates_at != new.activates_at
    ]
