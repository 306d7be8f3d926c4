"""A key ring: the facts that are recorded, and what follows from them at an instant.

Facts are timestamps and flags. Which key signs, which are published and what state each is in are computed from
(ring, now) and stored nowhere, so two replicas that hold the same ring can differ only by their clocks.

Guaranteed here: exactly one signer at any instant after the first activation, and no gap between two.
Left to others: `lifecycle` decides how a ring may change, the store that only one of two racing changes is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from keyturn_server.domain.policy import Policy
from keyturn_server.domain.public_key import PublicKey


class KeyState(StrEnum):
    """The states of NIST SP 800-57 part 1, section 7, as keyturn uses them."""

    PRE_ACTIVE = "pre-active"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is recorded of a key. Times that are None have not come about."""

    public_key: PublicKey
    kid: str
    created_at: datetime
    max_lifetime: timedelta
    """The longest token lifetime under which it may sign."""
    published_at: datetime | None = None
    """When a pass found it in the store, so that from then on every fresh document has it."""
    activates_at: datetime | None = None
    revoked_at: datetime | None = None
    destroyed_at: datetime | None = None
    """When its private half was destroyed."""
    forced: bool = False
    """It was made to sign before every verifier could know it."""
    reason: str = ""
    """Why it was revoked or forced, in the operator's words."""

    @property
    def took_over(self) -> bool:
        """Whether its activation counts: it is dated and was not revoked before."""
        return self.activates_at is not None and (self.revoked_at is None or self.revoked_at >= self.activates_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who made a version of a ring, when, what it did, and why."""

    made_at: datetime
    actor: str
    action: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FormerPolicy:
    """A policy that was in force until then: what was made under it still lives by it."""

    policy: Policy
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One version of an issuer's ring. Keys stand in the order in which they sign; none is ever removed."""

    issuer: str
    iss: str
    version: int
    policy: Policy
    keys: tuple[Key, ...]
    change: Change
    former_policies: tuple[FormerPolicy, ...] = ()
    """Those that had a longer propagation window, signing lease or clock tolerance than a later one."""
    retired_at: datetime | None = None
    """From when the issuer signs no more. Its documents stay until its last token is dead."""

    def find(self, kid: str) -> Key | None:
        return next((key for key in self.keys if key.kid == kid), None)


def signer(ring: Ring, now: datetime) -> Key | None:
    """The key that signs: of the unrevoked keys whose activation has come, the last.

    None only where nothing may sign: before an issuer's first activation, and after its retirement.
    """
    if is_retired(ring, now):
        return None
    return next((key for key in reversed(ring.keys) if key.revoked_at is None and _has_activated(key, now)), None)


def standby(ring: Ring, now: datetime) -> Key | None:
    """The next signer: the first unrevoked key after the signer whose activation has not come."""
    if is_retired(ring, now):
        return None
    return next((key for key in ring.keys if key.revoked_at is None and not _has_activated(key, now)), None)


def is_retired(ring: Ring, now: datetime) -> bool:
    return ring.retired_at is not None and ring.retired_at <= now


def deactivates_at(ring: Ring, key: Key) -> datetime | None:
    """When the key signs no more: its successor takes over, or the issuer retires. None: neither is dated.

    The successor is the next by position, not by time: a takeover by revocation is dated into the past.
    """
    return next(deactivated for each, deactivated in _deactivations(ring) if each.kid == key.kid)


def known_at(ring: Ring, published_at: datetime) -> datetime:
    """From when a key that was published then is in every document that a verifier may still be using.

    What a former policy allowed before it ended is allowed by it still: a verifier may use a document that it fetched
    then for as long as that policy said. And a replica that knows a former policy only publishes by that one, to
    verifiers that may go by a later one.
    """
    policies = [*(each.policy for each in ring.former_policies), ring.policy]
    former = [
        min(published_at, each.until) + max(each.policy.window_with(later) for later in policies[at:])
        for at, each in enumerate(ring.former_policies)
    ]
    return max([published_at + ring.policy.propagation_window, *former])


def covered_until(ring: Ring, deactivated_at: datetime, max_lifetime: timedelta) -> datetime:
    """Until when a key that signs no more must stay published: the end of the last token that it may have signed.

    A replica that knows a former policy only goes by the signing lease of that one.
    """
    former = [min(deactivated_at, each.until) + each.policy.coverage(max_lifetime) for each in ring.former_policies]
    return max([deactivated_at + ring.policy.coverage(max_lifetime), *former])


def published_until(ring: Ring, key: Key) -> datetime | None:
    """When the key leaves the documents: once the last token that it may have signed is dead. None: not yet known.

    A revoked key left them when it was revoked.
    """
    return _published_until(ring, key, deactivates_at(ring, key))


def published(ring: Ring, now: datetime) -> tuple[Key, ...]:
    """The keys that every document of this instant lists. None are left only of a retired issuer."""
    keys = [
        key
        for key, deactivated in _deactivations(ring)
        if key.revoked_at is None and ((until := _published_until(ring, key, deactivated)) is None or now < until)
    ]
    return tuple(reversed(keys))


def state(ring: Ring, key: Key, now: datetime) -> KeyState:
    """The state of one of the ring's keys."""
    if key.revoked_at is not None:
        return KeyState.COMPROMISED
    if not is_retired(ring, now) and not _has_activated(key, now):
        return KeyState.PRE_ACTIVE
    if key is signer(ring, now):
        return KeyState.ACTIVE
    until = published_until(ring, key)
    if key.destroyed_at is None or until is None or now < until:
        return KeyState.DEACTIVATED
    return KeyState.DESTROYED


def _deactivations(ring: Ring) -> Iterator[tuple[Key, datetime | None]]:
    """Each key, the last one first, with the time from which it signs no more."""
    ends = ring.retired_at
    for key in reversed(ring.keys):
        yield key, ends
        if key.took_over and key.activates_at is not None:
            ends = key.activates_at if ring.retired_at is None else min(key.activates_at, ring.retired_at)


def _published_until(ring: Ring, key: Key, deactivated_at: datetime | None) -> datetime | None:
    if key.revoked_at is not None:
        return key.revoked_at
    return None if deactivated_at is None else covered_until(ring, deactivated_at, key.max_lifetime)


def _has_activated(key: Key, now: datetime) -> bool:
    return key.activates_at is not None and key.activates_at <= now
