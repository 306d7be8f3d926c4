"""Changes of one key ahead of schedule: rotation and revocation.

What could break a verifier is refused with the time from which it could not; force overrides that, and the key keeps a
record of it. What dates a takeover by revocation is `now - 2E`, so that no replica with a slow clock falls back to an
older key.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from keyturn_server.domain.errors import NotFoundError, RefusedError
from keyturn_server.domain.lifecycle import new_key
from keyturn_server.domain.plans import Plan, Step, accepted_until, check_change, check_room, next_version
from keyturn_server.domain.policy import MAX_SCHEDULED_KEYS
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import (
    Change,
    Key,
    KeyState,
    Ring,
    deactivates_at,
    is_retired,
    known_at,
    published,
    published_until,
    signer,
    standby,
    state,
)

MAX_PUBLISHED_KEYS = 50
"""How many keys a document may hold, forced ones included."""


def plan_rotation(ring: Ring, change: Change, *, force: bool) -> Plan:
    """Lets the standby sign from now on. Refused while verifiers may not know it, unless forced."""
    check_change(ring, change, reason_needed_for="force" if force else "")
    now = change.made_at
    current, following = signer(ring, now), standby(ring, now)
    if following is None or current is None:
        raise RefusedError(
            f"issuer {ring.issuer} has no standby yet: the next pass makes one, within seconds", reason="NO_STANDBY"
        )
    safe = _safe_time(ring, following, now)
    if safe > now and not force:
        raise _too_early(following, safe)
    keys = len(published(ring, now))
    if force:
        check_room(ring, now, keys + 1, MAX_PUBLISHED_KEYS)
    else:
        # Those that are scheduled while the ones of now are still published come on top.
        check_room(ring, now, keys + ring.policy.most_published_keys - 1, MAX_SCHEDULED_KEYS)
    successor = _takeover(following, now, change, forced=safe > now)
    after = next_version(ring, _replaced(ring.keys, successor), change)
    steps = (Step(following.kid, now, "signs from now on"), *_deactivation(after, current))
    return _with_failures(Plan(before=ring, ring=after, steps=steps), successor, safe)


def plan_revocation(ring: Ring, kid: str, change: Change, *, force: bool, fresh: PublicKey | None = None) -> Plan:
    """Withdraws a key at once. Of the signer: the standby takes over, or by force `fresh` where there is none."""
    check_change(ring, change, reason_needed_for="revocation", of_retired=True)
    now = change.made_at
    target = ring.find(kid)
    if target is None:
        raise NotFoundError(f"issuer {ring.issuer} has no key {kid}", reason="NO_SUCH_KEY")
    if state(ring, target, now) in {KeyState.COMPROMISED, KeyState.DESTROYED}:
        raise RefusedError(
            f"key {kid} is {state(ring, target, now)}: there is nothing left to withdraw", reason="ALREADY_WITHDRAWN"
        )
    revoked = replace(target, revoked_at=now, destroyed_at=target.destroyed_at or now, reason=change.reason)
    after = next_version(ring, _replaced(ring.keys, revoked), change)
    steps = [
        Step(kid, now, "leaves the documents; its private half is destroyed; its tokens are not to be trusted"),
        Step(
            kid,
            accepted_until(ring, now),
            "until then a verifier with an older document, or behind a replica that is cut off, may accept its tokens",
        ),
    ]
    if target is signer(ring, now):
        return _plan_takeover(Plan(before=ring, ring=after, steps=tuple(steps)), force=force, fresh=fresh)
    if target is standby(ring, now):
        steps.append(Step("", now, "the next pass makes a new standby; the signer signs on until that one is due"))
    elif state(ring, target, now) is KeyState.DEACTIVATED and not is_retired(ring, now):
        after = _dated_back(after, revoked)
    return Plan(before=ring, ring=after, steps=tuple(steps))


def _plan_takeover(plan: Plan, *, force: bool, fresh: PublicKey | None) -> Plan:
    """The rest of a signer's revocation, in a ring where it is revoked already: who signs now."""
    ring, change = plan.ring, plan.ring.change
    now = change.made_at
    following = standby(ring, now)
    safe = known_at(ring, now) if following is None else _safe_time(ring, following, now)
    if safe > now and not force:
        if following is None:
            raise RefusedError(
                f"issuer {ring.issuer} has no standby to take over: a pass makes one within seconds, or force lets a "
                "new key sign that no verifier knows yet",
                reason="NO_STANDBY",
            )
        raise _too_early(following, safe)
    if following is None:
        if fresh is None:
            made = replace(plan, steps=(*plan.steps, Step("", now, "is made and signs from now on")), new_keys=1)
            return replace(made, earliest_safe_time=safe, failures=_failing("the new key"), failures_until=safe)
        following = new_key(fresh, ring.policy, now)
        ring = replace(ring, keys=(*ring.keys, following))
    successor = _takeover(following, now - 2 * ring.policy.clock_tolerance, change, forced=safe > now)
    ring = replace(ring, keys=_replaced(ring.keys, successor))
    steps = (*plan.steps, Step(successor.kid, now, "signs from now on"))
    return _with_failures(replace(plan, ring=ring, steps=steps), successor, safe)


def _dated_back(ring: Ring, revoked: Key) -> Ring:
    """The ring after the revocation of a key that had just been relieved: on a clock that is behind it still signed, so
    its successor must have taken over there too.
    """
    later = ring.keys[ring.keys.index(revoked) + 1 :]
    successor = next((key for key in later if key.took_over and key.revoked_at is None), None)
    latest = ring.change.made_at - 2 * ring.policy.clock_tolerance
    if successor is None or successor.activates_at is None or successor.activates_at <= latest:
        return ring
    return replace(ring, keys=_replaced(ring.keys, replace(successor, activates_at=latest)))


def _takeover(key: Key, activates_at: datetime, change: Change, *, forced: bool) -> Key:
    return replace(
        key,
        activates_at=activates_at,
        published_at=key.published_at or change.made_at,
        forced=forced,
        reason=change.reason if forced else "",
    )


def _with_failures(plan: Plan, successor: Key, safe: datetime) -> Plan:
    """The plan, saying what fails where its successor signs before every verifier knows it."""
    if not successor.forced:
        return plan
    failing = _failing(f"key {successor.kid}")
    return replace(plan, earliest_safe_time=safe, failures=failing, failures_until=safe)


def _failing(key: str) -> str:
    return f"new tokens, signed by {key}, fail at verifiers that use a document from before its publication"


def _safe_time(ring: Ring, key: Key, now: datetime) -> datetime:
    """From when every verifier knows the key; for one that no pass has read back yet, the soonest that this can be."""
    return known_at(ring, key.published_at or now)


def _too_early(following: Key, safe: datetime) -> RefusedError:
    return RefusedError(
        f"standby {following.kid} is not known to every verifier before {_moment(safe)}: wait until then, or force it "
        "and accept that verifiers with an older document refuse new tokens until that time",
        reason="STANDBY_TOO_YOUNG",
        earliest_safe_time=safe,
    )


def _deactivation(ring: Ring, key: Key) -> tuple[Step, ...]:
    """The steps of a key that another one has just relieved."""
    deactivated, until = deactivates_at(ring, key), published_until(ring, key)
    if deactivated is None or until is None:
        return ()
    return (
        Step(key.kid, deactivated, "signs no more"),
        Step(key.kid, deactivated + 2 * ring.policy.clock_tolerance, "its private half is destroyed"),
        Step(key.kid, until, "leaves the documents: its last token is dead"),
    )


def _replaced(keys: tuple[Key, ...], changed: Key) -> tuple[Key, ...]:
    return tuple(changed if key.kid == changed.kid else key for key in keys)


def _moment(time: datetime) -> str:
    return (time + timedelta(microseconds=999_999)).strftime("%Y-%m-%dT%H:%M:%SZ")
