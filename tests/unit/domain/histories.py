"""Histories of a ring: what several replicas with wrong clocks and an operator make of it over true time.

True time runs in whole seconds from `NOW`. Every event is made by a replica whose clock is wrong by up to the
tolerance, on the newest version of the ring. A pass commits some seconds after it has read; an operator's change
commits at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum, auto
from itertools import product

from hypothesis import strategies as st

from keyturn_server.domain.errors import KeyturnError
from keyturn_server.domain.issuer_plans import plan_policy
from keyturn_server.domain.key_plans import plan_revocation, plan_rotation
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.ring import Key, Ring, signer, standby
from tests.rings import NOW, SECOND, change, new_ring, one_pass, public_key

# The window has nothing to spare, so that a margin that is too short is seen; the period leaves time to rotate ahead of
# schedule.
TIGHT = Policy(
    rotation_period=30 * SECOND,
    propagation_window=12 * SECOND,
    max_token_lifetime=3 * SECOND,
    verifier_cache=4 * SECOND,
    document_max_age=1 * SECOND,
    signing_lease=3 * SECOND,
    clock_tolerance=2 * SECOND,
)
WIDE = replace(
    TIGHT,
    rotation_period=60 * SECOND,
    propagation_window=19 * SECOND,
    verifier_cache=7 * SECOND,
    document_max_age=2 * SECOND,
    signing_lease=6 * SECOND,
)
POLICIES = (TIGHT, WIDE, replace(TIGHT, max_token_lifetime=9 * SECOND))
TOLERANCE = TIGHT.clock_tolerance // SECOND


def moment(true_time: int, skew: int = 0) -> datetime:
    """What a clock that is wrong by `skew` shows."""
    return NOW + (true_time + skew) * SECOND


class Action(StrEnum):
    PASS = auto()
    ROTATE = auto()
    REVOKE_SIGNER = auto()
    REVOKE_STANDBY = auto()
    REVOKE_FORMER = auto()
    CHANGE_POLICY = auto()


@dataclass(frozen=True)
class Event:
    pause: int
    skew: int
    action: Action
    delay: int = 0
    force: bool = False
    policy: Policy = TIGHT


@dataclass(frozen=True)
class Version:
    committed_at: int
    ring: Ring


class History:
    def __init__(self, versions: Sequence[Version], last_skew: int) -> None:
        self.versions = versions
        self._last_skew = last_skew

    def __repr__(self) -> str:
        """The story in lines, which is what one wants to read of an example that fails."""
        lines = [f"{version.committed_at:4d} s: {_told(version.ring)}" for version in self.versions]
        return "\n".join([f"History that ends {self._last_skew:+d} s", *lines])

    @property
    def ring(self) -> Ring:
        return self.versions[-1].ring

    @property
    def end(self) -> int:
        return self.versions[-1].committed_at

    @property
    def now(self) -> datetime:
        """What the clock of the last replica shows at the end."""
        return moment(self.end, self._last_skew)

    def newest(self, true_time: int) -> Ring:
        return next(version.ring for version in reversed(self.versions) if version.committed_at <= true_time)

    def snapshots(self, true_time: int) -> Iterator[Ring]:
        """The versions that a replica may go by: one that was the newest within its lease."""
        superseded = [version.committed_at for version in self.versions[1:]] + [true_time + 1]
        for version, until in zip(self.versions, superseded, strict=True):
            lease = version.ring.policy.signing_lease // SECOND
            if version.committed_at <= true_time and until > true_time - lease:
                yield version.ring

    def revoked_at(self, kid: str) -> float:
        """The true time from which the store says that a key is revoked."""
        return next(
            (
                version.committed_at
                for version in self.versions
                if (key := version.ring.find(kid)) and key.revoked_at is not None
            ),
            float("inf"),
        )

    def made_at(self, kid: str) -> int:
        return next(version.committed_at for version in self.versions if version.ring.find(kid))


# Passes and rotations more often than the rest, or nothing would come of the schedule.
_ACTIONS = [Action.PASS] * 3 + [Action.ROTATE] * 2 + [Action.REVOKE_SIGNER, Action.REVOKE_STANDBY, Action.REVOKE_FORMER]
_EVENTS = [Event(*facts) for facts in product(range(9), (-TOLERANCE, 0, TOLERANCE), _ACTIONS, (0, 2))]
_FORCED = [replace(event, force=True) for event in _EVENTS]
_POLICIES = [
    Event(pause, skew, Action.CHANGE_POLICY, policy=policy)
    for pause, skew, policy in product(range(9), (-TOLERANCE, 0, TOLERANCE), POLICIES)
]


@st.composite
def histories(draw: st.DrawFn, *, force: bool = False, policies: bool = False) -> History:
    """A history that begins under the tight policy; without forced changes and other policies unless asked for."""
    event = st.sampled_from(_EVENTS + _FORCED * force + _POLICIES * policies)
    return replay(draw(st.lists(event, min_size=15, max_size=40)))


def _told(ring: Ring) -> str:
    numbers = {key.kid: str(number) for number, key in enumerate(ring.keys)}
    action = " ".join(numbers.get(word.rstrip(","), word) for word in ring.change.action.split())
    keys = ", ".join(
        f"{number} from {_seconds(key.activates_at)}"
        + ("" if key.revoked_at is None else f" revoked {_seconds(key.revoked_at)}")
        for number, key in enumerate(ring.keys)
    )
    return f"{action} at {_seconds(ring.change.made_at)}: {keys}"


def _seconds(time: datetime | None) -> str:
    return "?" if time is None else f"{(time - NOW) // SECOND}"


def replay(events: Sequence[Event]) -> History:
    versions = [Version(0, new_ring(TIGHT, moment(0, events[0].skew)))]
    time = 0
    for event in events:
        time += event.pause
        ring = _after(event, versions[-1].ring, moment(time, event.skew))
        time += event.delay if event.action is Action.PASS else 0
        if ring is not versions[-1].ring:
            versions.append(Version(time, ring))
    return History([*versions, Version(time, versions[-1].ring)], events[-1].skew)


def _after(event: Event, ring: Ring, now: datetime) -> Ring:
    """The ring after an event; the same one where nothing is due or the change is refused."""
    if event.action is Action.PASS:
        return one_pass(ring, now)
    asked = change(now, action=event.action, reason="a test")
    try:
        if event.action is Action.ROTATE:
            return plan_rotation(ring, asked, force=event.force).ring
        if event.action is Action.CHANGE_POLICY:
            return plan_policy(ring, ring.iss, event.policy, asked).ring
        fresh = public_key(len(ring.keys))
        return plan_revocation(ring, _target(event, ring, now), asked, force=event.force, fresh=fresh).ring
    except KeyturnError:
        return ring


def _target(event: Event, ring: Ring, now: datetime) -> str:
    found: Key | None
    match event.action:
        case Action.REVOKE_SIGNER:
            found = signer(ring, now)
        case Action.REVOKE_STANDBY:
            found = standby(ring, now)
        case _:
            current = signer(ring, now)
            before = ring.keys[: ring.keys.index(current)] if current else ()
            found = before[-1] if before else None
    return found.kid if found else ""
