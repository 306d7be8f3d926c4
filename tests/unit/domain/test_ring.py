from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_server.domain.ring import (
    FormerPolicy,
    Key,
    KeyState,
    covered_until,
    deactivates_at,
    known_at,
    published,
    published_until,
    signer,
    standby,
    state,
)
from tests.rings import DAY, HOUR, MINUTE, NOW, POLICY, SKEW, TICK, key, kid, ring_of
from tests.unit.domain.histories import TOLERANCE, History, histories, moment

# What clocks show from the end of a history on; the slowest is behind by the tolerance.
INSTANTS = st.integers(-TOLERANCE, 60)

COVERAGE = POLICY.coverage(HOUR)

# Three generations and a standby that no pass has read back yet.
OLD = key(0, published_at=NOW, activates_at=NOW)
MIDDLE = key(1, published_at=NOW, activates_at=NOW + 30 * DAY)
YOUNG = key(2, published_at=NOW + 30 * DAY, activates_at=NOW + 60 * DAY)
UNDATED = key(3)
RING = ring_of(OLD, MIDDLE, YOUNG, UNDATED)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW - TICK, None),
        (NOW, OLD),
        (NOW + 30 * DAY - TICK, OLD),
        (NOW + 30 * DAY, MIDDLE),
        (NOW + 60 * DAY - TICK, MIDDLE),
        (NOW + 60 * DAY, YOUNG),
        (NOW + 9999 * DAY, YOUNG),
    ],
)
def test_the_signer_is_the_key_that_activated_last(now: datetime, expected: Key | None) -> None:
    assert signer(RING, now) is expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [(NOW, MIDDLE), (NOW + 30 * DAY - TICK, MIDDLE), (NOW + 30 * DAY, YOUNG), (NOW + 60 * DAY, UNDATED)],
)
def test_the_standby_is_the_key_that_signs_next(now: datetime, expected: Key) -> None:
    assert standby(RING, now) is expected


def test_a_ring_whose_last_key_signs_has_no_standby() -> None:
    assert standby(ring_of(OLD, MIDDLE), NOW + 30 * DAY) is None


def test_a_revoked_key_is_neither_signer_nor_standby() -> None:
    ring = ring_of(
        OLD,
        key(1, activates_at=NOW + DAY, revoked_at=NOW + 2 * DAY),
        key(2, activates_at=NOW + 3 * DAY, revoked_at=NOW + 2 * DAY),
        UNDATED,
    )

    assert signer(ring, NOW + 2 * DAY) is OLD
    assert standby(ring, NOW + 2 * DAY) is UNDATED


def test_keys_succeed_each_other_by_position_because_a_takeover_by_revocation_is_dated_back() -> None:
    rotated = NOW + DAY
    revoked = rotated + MINUTE
    successor = key(2, activates_at=revoked - SKEW)
    ring = ring_of(OLD, key(1, activates_at=rotated, revoked_at=revoked), successor)

    assert signer(ring, revoked) is successor
    assert signer(ring, revoked - SKEW) is successor
    assert deactivates_at(ring, OLD) == rotated


@pytest.mark.parametrize(
    ("number", "deactivated"), [(0, NOW + 30 * DAY), (1, NOW + 60 * DAY), (2, None), (3, None)], ids=str
)
def test_a_key_signs_until_the_next_one_takes_over(number: int, deactivated: datetime | None) -> None:
    assert deactivates_at(RING, RING.keys[number]) == deactivated


@pytest.mark.parametrize(
    ("revoked", "deactivated"),
    [
        (timedelta(0), NOW + 60 * DAY),
        (30 * DAY - TICK, NOW + 60 * DAY),
        (30 * DAY, NOW + 30 * DAY),
        (30 * DAY + TICK, NOW + 30 * DAY),
    ],
)
def test_a_standby_that_is_revoked_before_it_signs_relieves_nobody(revoked: timedelta, deactivated: datetime) -> None:
    ring = ring_of(OLD, key(1, activates_at=NOW + 30 * DAY, revoked_at=NOW + revoked), YOUNG)

    assert deactivates_at(ring, OLD) == deactivated


@pytest.mark.parametrize(
    ("facts", "now", "expected"),
    [
        ({}, NOW + 9999 * DAY, KeyState.PRE_ACTIVE),
        ({"activates_at": NOW + 31 * DAY}, NOW + 31 * DAY - TICK, KeyState.PRE_ACTIVE),
        ({"activates_at": NOW + 31 * DAY}, NOW + 31 * DAY, KeyState.ACTIVE),
        ({"activates_at": NOW}, NOW + 60 * DAY - TICK, KeyState.ACTIVE),
        ({"activates_at": NOW}, NOW + 60 * DAY, KeyState.DEACTIVATED),
        ({"activates_at": NOW, "destroyed_at": NOW + 61 * DAY}, NOW + 60 * DAY, KeyState.DEACTIVATED),
        ({"activates_at": NOW, "destroyed_at": NOW}, NOW + 60 * DAY + COVERAGE - TICK, KeyState.DEACTIVATED),
        ({"activates_at": NOW, "destroyed_at": NOW}, NOW + 60 * DAY + COVERAGE, KeyState.DESTROYED),
        ({"activates_at": NOW}, NOW + 60 * DAY + COVERAGE, KeyState.DEACTIVATED),
        ({"activates_at": NOW, "revoked_at": NOW}, NOW, KeyState.COMPROMISED),
        ({"revoked_at": NOW, "destroyed_at": NOW}, NOW + 9999 * DAY, KeyState.COMPROMISED),
    ],
)
def test_a_state_follows_from_facts_and_time(facts: dict[str, datetime], now: datetime, expected: KeyState) -> None:
    looked_at = key(1, **facts)

    assert state(ring_of(looked_at, YOUNG), looked_at, now) is expected


def test_a_key_stays_published_until_its_last_token_is_dead() -> None:
    until = NOW + 30 * DAY + HOUR + 6 * HOUR + 4 * MINUTE

    assert published_until(RING, OLD) == until
    assert OLD in published(RING, until - TICK)
    assert OLD not in published(RING, until)


def test_a_key_stays_published_after_its_private_half_was_destroyed() -> None:
    relieved = key(0, activates_at=NOW, destroyed_at=NOW + 30 * DAY)

    assert relieved in published(ring_of(relieved, MIDDLE), NOW + 30 * DAY + COVERAGE - TICK)


def test_the_longest_lifetime_under_which_a_key_signed_decides_how_long_it_stays() -> None:
    long = key(0, activates_at=NOW, max_lifetime=5 * DAY)

    assert published_until(ring_of(long, MIDDLE), long) == NOW + 35 * DAY + 6 * HOUR + 4 * MINUTE


@pytest.mark.parametrize("number", [2, 3])
def test_a_key_without_a_dated_successor_stays_published(number: int) -> None:
    assert published_until(RING, RING.keys[number]) is None
    assert RING.keys[number] in published(RING, NOW + 9999 * DAY)


def test_documents_list_standbys_signer_and_the_keys_whose_tokens_live() -> None:
    assert [key.kid for key in published(RING, NOW)] == [kid(0), kid(1), kid(2), kid(3)]
    assert [key.kid for key in published(RING, NOW + 30 * DAY + COVERAGE)] == [kid(1), kid(2), kid(3)]
    assert [key.kid for key in published(RING, NOW + 60 * DAY + COVERAGE)] == [kid(2), kid(3)]


@pytest.mark.parametrize(
    "facts", [{}, {"activates_at": NOW}, {"activates_at": NOW - DAY, "destroyed_at": NOW}], ids=str
)
def test_a_revoked_key_is_published_no_more_whatever_the_clock_says(facts: dict[str, datetime]) -> None:
    revoked = key(1, **facts, revoked_at=NOW)
    ring = ring_of(OLD, revoked, UNDATED)

    assert published_until(ring, revoked) == NOW
    assert revoked not in published(ring, NOW - SKEW)
    assert revoked not in published(ring, NOW)


def test_a_retired_issuer_has_neither_signer_nor_standby() -> None:
    ring = replace(RING, retired_at=NOW + 40 * DAY)

    assert (signer(ring, NOW + 40 * DAY - TICK), standby(ring, NOW + 40 * DAY - TICK)) == (MIDDLE, YOUNG)
    assert (signer(ring, NOW + 40 * DAY), standby(ring, NOW + 40 * DAY)) == (None, None)


def test_a_retirement_deactivates_every_key_that_was_not_relieved_before() -> None:
    ring = replace(RING, retired_at=NOW + 40 * DAY)

    assert [deactivates_at(ring, each) for each in ring.keys] == [NOW + 30 * DAY, *[NOW + 40 * DAY] * 3]
    assert [each.kid for each in published(ring, NOW + 40 * DAY)] == [kid(1), kid(2), kid(3)]
    assert published(ring, NOW + 40 * DAY + COVERAGE) == ()
    assert [state(ring, each, NOW + 40 * DAY) for each in ring.keys[1:]] == [KeyState.DEACTIVATED] * 3


# What was made under a former policy with longer times lives by those.

FORMER = FormerPolicy(replace(POLICY, propagation_window=30 * HOUR, signing_lease=9 * HOUR), NOW)


@pytest.mark.parametrize(
    ("published_at", "known"),
    [
        (NOW - HOUR, NOW + 29 * HOUR),
        (NOW, NOW + 30 * HOUR),
        (NOW + 5 * HOUR, NOW + 30 * HOUR),
        (NOW + 7 * HOUR, NOW + 31 * HOUR),
    ],
    ids=["before", "at its end", "soon after", "later"],
)
def test_a_verifier_may_use_a_document_for_as_long_as_a_former_policy_said(
    published_at: datetime, known: datetime
) -> None:
    assert known_at(replace(RING, former_policies=(FORMER,)), published_at) == known


@pytest.mark.parametrize(
    ("deactivated_at", "covered"),
    [
        (NOW - HOUR, NOW + 9 * HOUR + 4 * MINUTE),
        (NOW, NOW + 10 * HOUR + 4 * MINUTE),
        (NOW + 2 * HOUR, NOW + 10 * HOUR + 4 * MINUTE),
        (NOW + 4 * HOUR, NOW + 11 * HOUR + 4 * MINUTE),
    ],
    ids=["before", "at its end", "soon after", "later"],
)
def test_a_replica_that_is_cut_off_may_sign_for_as_long_as_a_former_policy_said(
    deactivated_at: datetime, covered: datetime
) -> None:
    assert covered_until(replace(RING, former_policies=(FORMER,)), deactivated_at, HOUR) == covered


def test_a_key_is_found_by_its_kid() -> None:
    assert RING.find(kid(2)) is YOUNG
    assert RING.find(kid(9)) is None


@given(histories(force=True), INSTANTS)
def test_exactly_one_key_signs_at_any_instant_even_on_a_clock_that_is_behind(history: History, seconds: int) -> None:
    instant = moment(history.end, seconds)

    active = [each for each in history.ring.keys if state(history.ring, each, instant) is KeyState.ACTIVE]

    assert active == [signer(history.ring, instant)]


@given(histories(force=True), INSTANTS)
def test_the_signer_and_the_standby_are_always_published(history: History, seconds: int) -> None:
    instant = moment(history.end, seconds)

    listed = published(history.ring, instant)

    assert signer(history.ring, instant) in listed
    assert standby(history.ring, instant) in {None, *listed}


@given(histories(force=True))
def test_a_key_leaves_the_documents_once_and_for_all(history: History) -> None:
    lists = [published(history.ring, moment(history.end, seconds)) for seconds in range(60)]

    assert all(set(later) <= set(earlier) for earlier, later in pairwise(lists))
