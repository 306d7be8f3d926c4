"""How a ring changes on schedule: how it begins, what a pass does when it is due, and when something is.

Every function takes a ring and `now` and gives the next version of the ring; nothing is stored here. The rules:

- A standby is made as soon as the signer has none. Only when a later pass reads it back from the store does it count as
  published, and only then is it dated: one rotation period after its predecessor, one propagation window after its
  publication, whichever is later. So a slow or frozen commit can never make a key sign early; a late one only delays.
- A private half is destroyed 2E after its key's successor took over: by then no clock takes it for the signer.
- What dates an issuer's first signer is `now - 2E`, so that no replica with a slow clock falls into a gap.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from keyturn_server.domain.policy import Policy
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import Change, Key, Ring, deactivates_at, is_retired, known_at, signer, standby

SCHEDULE = "keyturn"
"""The actor of changes that happen on schedule."""


@dataclass(frozen=True, slots=True)
class Due:
    """What a pass has to do for a ring now."""

    make_standby: bool
    publish: tuple[str, ...]
    destroy: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.make_standby or bool(self.publish) or bool(self.destroy)


def first_ring(issuer: str, iss: str, policy: Policy, keys: tuple[PublicKey, PublicKey], change: Change) -> Ring:
    """Version 1 of a new issuer's ring: a signer that may sign at once, and a standby."""
    now = change.made_at
    first, second = (new_key(key, policy, now) for key in keys)
    first = replace(first, published_at=now, activates_at=now - 2 * policy.clock_tolerance)
    return Ring(issuer=issuer, iss=iss, version=1, policy=policy, keys=(first, second), change=change)


def due(ring: Ring, now: datetime) -> Due:
    """What a pass has to do now. The ring must have been read from the store before `now` was taken."""
    return Due(
        make_standby=standby(ring, now) is None and signer(ring, now) is not None,
        publish=tuple(
            key.kid
            for key in ring.keys
            if key.revoked_at is None and key.published_at is None and not is_retired(ring, now)
        ),
        destroy=tuple(
            key.kid
            for key in ring.keys
            if key.destroyed_at is None
            and (deactivated := deactivates_at(ring, key)) is not None
            and deactivated + 2 * ring.policy.clock_tolerance <= now
        ),
    )


def next_due(ring: Ring, now: datetime) -> datetime | None:
    """The earliest time, `now` or later, at which `due` finds something. None: never while the ring stays as it is."""
    if due(ring, now):
        return now
    margin = 2 * ring.policy.clock_tolerance
    times = [
        deactivated + margin
        for key in ring.keys
        if key.destroyed_at is None and (deactivated := deactivates_at(ring, key)) is not None
    ]
    # Two keys may wait: a replica whose clock is ahead makes the next standby while this one still waits for the first.
    waiting = [
        key.activates_at
        for key in ring.keys
        if key.revoked_at is None and key.activates_at is not None and key.activates_at > now
    ]
    if waiting and not is_retired(ring, now):
        times.append(max(waiting))
    return min(times, default=None)


def is_overdue(ring: Ring, now: datetime) -> bool:
    """Whether the signer has signed for longer than a rotation period: harmless, and worth an alert."""
    current = signer(ring, now)
    return (
        current is not None
        and current.activates_at is not None
        and current.activates_at + ring.policy.rotation_period < now
    )


def advance(ring: Ring, now: datetime, fresh: PublicKey | None = None) -> Ring:
    """The next version of the ring, with everything done that is due; `fresh` is the new standby where one is due."""
    todo = due(ring, now)
    keys = [_advance_key(ring, key, todo, now) for key in ring.keys]
    done = [f"dated {kid}" for kid in todo.publish] + [f"destroyed {kid}" for kid in todo.destroy]
    if todo.make_standby:
        if fresh is None:
            raise ValueError("a standby is due: advance needs a fresh key")
        keys.append(new_key(fresh, ring.policy, now))
        done.append(f"made standby {keys[-1].kid}")
    change = Change(made_at=now, actor=SCHEDULE, action=", ".join(done))
    return replace(ring, version=ring.version + 1, keys=tuple(keys), change=change)


def _advance_key(ring: Ring, key: Key, todo: Due, now: datetime) -> Key:
    if key.kid in todo.destroy:
        return replace(key, destroyed_at=now)
    if key.kid not in todo.publish:
        return key
    earliest = known_at(ring, now)
    # By position: on a clock that is behind, the predecessor may be waiting itself.
    earlier = ring.keys[: ring.keys.index(key)]
    predecessor = next((other for other in reversed(earlier) if other.revoked_at is None), None)
    if predecessor is None or predecessor.activates_at is None:
        return replace(key, published_at=now, activates_at=earliest)
    scheduled = predecessor.activates_at + ring.policy.rotation_period
    return replace(key, published_at=now, activates_at=max(scheduled, earliest))


def new_key(public_key: PublicKey, policy: Policy, now: datetime) -> Key:
    """A key that has just been made: neither published nor dated."""
    return Key(
        public_key=public_key,
        kid=public_key.thumbprint(),
        created_at=now,
        max_lifetime=policy.max_token_lifetime,
    )
