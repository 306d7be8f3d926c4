"""What no history may break, whatever the clocks, the caches and the replicas that are cut off from the store.

Every second of a history is looked at from every replica that there may be: its clock wrong by the tolerance either
way or right, its snapshot any that its lease allows.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from hypothesis import example, given, settings

from keyturn_server.domain.documents import expiry
from keyturn_server.domain.policy import MAX_SCHEDULED_KEYS
from keyturn_server.domain.ring import Key, Ring, published, signer
from tests.rings import NOW, SECOND
from tests.unit.domain.histories import (
    POLICIES,
    TIGHT,
    TOLERANCE,
    WIDE,
    Action,
    Event,
    History,
    histories,
    moment,
    replay,
)

SKEWS = (-TOLERANCE, 0, TOLERANCE)

# Long enough for the last dated standby to take over, and for the tokens of its predecessor to die.
REST = 60
LONGEST_LIFE = max(policy.max_token_lifetime for policy in POLICIES) // SECOND + 2 * TOLERANCE
REACHES_EVERY_VERIFIER = (TIGHT.verifier_cache + TIGHT.document_max_age + TIGHT.signing_lease) // SECOND


@dataclass(frozen=True)
class Token:
    """Signed at a true time; `expires` is its claim, in seconds from `NOW`. From `dead` on no verifier takes it."""

    kid: str
    signed: int
    expires: int
    dead: float


@dataclass(frozen=True)
class Published:
    """A document rendered at a true time, and until when a verifier may use it: each kid with the array's `expiry`, in
    seconds from `NOW`.
    """

    rendered: int
    used_until: int
    expiries: dict[str, int]


def replicas(history: History) -> Iterator[tuple[int, int, Ring]]:
    """Every true time with every clock and snapshot that a replica may have then."""
    for time in range(history.end + REST):
        for ring in history.snapshots(time):
            for skew in SKEWS:
                yield time, skew, ring


def signing_key(time: int, skew: int, ring: Ring) -> Key:
    key = signer(ring, moment(time, skew))
    assert key is not None, f"nobody signs at {time} s on a clock that is {skew:+d} s off, by version {ring.version}"
    return key


def tokens(history: History) -> Mapping[int, set[Token]]:
    """The longest-lived tokens that may be signed, by the time of signing."""
    signed = defaultdict(set)
    revoked = {key.kid: history.revoked_at(key.kid) for key in history.ring.keys}
    for time, skew, ring in replicas(history):
        key = signing_key(time, skew, ring)
        lifetime = min(key.max_lifetime, ring.policy.max_token_lifetime) // SECOND
        expires = time + skew + lifetime
        signed[time].add(Token(key.kid, time, expires, min(expires + TOLERANCE, revoked[key.kid])))
    return signed


def documents(history: History) -> Iterator[Published]:
    """All documents that may be published."""
    since_the_epoch = int(NOW.timestamp())
    rendered: dict[tuple[int, int], dict[str, int]] = {}
    for time, skew, ring in replicas(history):
        if (ring.version, time + skew) not in rendered:
            now = moment(time, skew)
            rendered[ring.version, time + skew] = {
                key.kid: expiry(ring, key, now) - since_the_epoch for key in published(ring, now)
            }
        cached = max(ring.policy.verifier_cache, history.newest(time).policy.verifier_cache)
        used_until = time + (cached + ring.policy.document_max_age) // SECOND
        yield Published(time, used_until, rendered[ring.version, time + skew])


def check_that_every_token_verifies(history: History) -> None:
    signed = tokens(history)
    for document in documents(history):
        for time in range(document.rendered - LONGEST_LIFE, document.used_until + 1):
            for token in signed.get(time, ()):
                if document.rendered < token.dead and token.signed < token.dead:
                    assert token.kid in document.expiries, f"{token} is not covered by {document}"
                    assert document.expiries[token.kid] >= token.expires, f"{token} outlives its entry in {document}"


SLOW, FAST = -TOLERANCE, TOLERANCE

# The narrowest cases, which chance might miss.
ROTATED_BY_A_SLOW_CLOCK = [Event(0, 0, Action.PASS), Event(14, SLOW, Action.ROTATE)]
STANDBY_READ_BACK_AT_ONCE_BY_A_SLOW_CLOCK = [
    Event(0, 0, Action.PASS),
    Event(20, FAST, Action.REVOKE_STANDBY),
    Event(0, 0, Action.PASS),
    Event(0, SLOW, Action.PASS),
]
LEASE_LOWERED_BEFORE_A_ROTATION = [
    Event(0, 0, Action.CHANGE_POLICY, policy=WIDE),
    Event(0, 0, Action.PASS),
    Event(21, SLOW, Action.CHANGE_POLICY, policy=TIGHT),
    Event(0, SLOW, Action.ROTATE),
]
WINDOW_LOWERED_BEFORE_A_STANDBY_IS_MADE = [
    Event(0, 0, Action.PASS),
    Event(1, 0, Action.CHANGE_POLICY, policy=WIDE),
    Event(20, 0, Action.REVOKE_STANDBY),
    Event(5, SLOW, Action.CHANGE_POLICY, policy=TIGHT),
    Event(0, 0, Action.PASS),
    Event(0, SLOW, Action.PASS),
]


@settings(max_examples=15)
@given(histories())
@example(replay(ROTATED_BY_A_SLOW_CLOCK))
@example(replay(STANDBY_READ_BACK_AT_ONCE_BY_A_SLOW_CLOCK))
def test_every_token_verifies_against_every_document_that_a_verifier_may_still_use(history: History) -> None:
    check_that_every_token_verifies(history)


@settings(max_examples=15)
@given(histories(policies=True))
@example(replay(LEASE_LOWERED_BEFORE_A_ROTATION))
@example(replay(WINDOW_LOWERED_BEFORE_A_STANDBY_IS_MADE))
def test_every_token_verifies_while_policies_change(history: History) -> None:
    check_that_every_token_verifies(history)


@settings(max_examples=15)
@given(histories())
def test_no_key_signs_before_every_verifier_knows_it(history: History) -> None:
    first_signer = history.versions[0].ring.keys[0].kid

    for token in chain.from_iterable(tokens(history).values()):
        if token.kid != first_signer:
            assert token.signed >= history.made_at(token.kid) + REACHES_EVERY_VERIFIER


@settings(max_examples=15)
@given(histories(policies=True))
def test_every_replica_has_a_signer_that_it_publishes_and_whose_private_half_exists(history: History) -> None:
    for time, skew, ring in replicas(history):
        key = signing_key(time, skew, ring)
        assert key.destroyed_at is None
        assert key in published(ring, moment(time, skew))


@settings(max_examples=15)
@given(histories(policies=True))
def test_a_document_never_holds_more_keys_than_consumers_read(history: History) -> None:
    for time, skew, ring in replicas(history):
        assert 1 <= len(published(ring, moment(time, skew))) <= MAX_SCHEDULED_KEYS
