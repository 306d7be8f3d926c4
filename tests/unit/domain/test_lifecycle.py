from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given

from keyturn_server.domain.lifecycle import advance, due, first_ring, is_overdue, next_due
from keyturn_server.domain.ring import KeyState, Ring, signer, standby, state
from tests.rings import (
    DAY,
    HOUR,
    NOW,
    POLICY,
    SECOND,
    SKEW,
    TAKEOVER,
    TICK,
    change,
    key,
    kid,
    new_ring,
    one_pass,
    public_key,
    ring_of,
    settled,
)
from tests.unit.domain.histories import History, histories

# A new issuer's ring, before and after its first pass.
NEW = new_ring()
RING = settled(NEW, NOW)


# The first ring


def test_a_new_issuer_has_a_signer_that_signs_at_once_on_every_clock_and_a_standby() -> None:
    made = change(action="init")

    ring = first_ring("contoso", "https://contoso.example", POLICY, (public_key(0), public_key(1)), made)

    assert (ring.issuer, ring.iss, ring.version, ring.policy, ring.change) == (
        "contoso",
        "https://contoso.example",
        1,
        POLICY,
        made,
    )
    assert ring.keys == (key(0, published_at=NOW, activates_at=NOW - SKEW), key(1))
    assert signer(ring, NOW - SKEW) is ring.keys[0]


def test_the_kid_of_a_key_is_its_thumbprint() -> None:
    assert [each.kid for each in NEW.keys] == [public_key(0).thumbprint(), public_key(1).thumbprint()]


def test_the_first_pass_reads_the_first_standby_back() -> None:
    assert due(NEW, NOW).publish == (kid(1),)
    assert not due(NEW, NOW).make_standby
    assert due(NEW, NOW).destroy == ()


# The standby


def test_a_standby_is_dated_by_the_pass_that_reads_it_back_and_not_by_the_one_that_makes_it() -> None:
    made = one_pass(RING, TAKEOVER)
    dated = one_pass(made, TAKEOVER + SECOND)

    assert made.keys[2] == key(2, created_at=TAKEOVER)
    assert dated.keys[2] == key(
        2, created_at=TAKEOVER, published_at=TAKEOVER + SECOND, activates_at=TAKEOVER + 30 * DAY
    )


@pytest.mark.parametrize(
    ("read_back", "activates"),
    [
        (TAKEOVER, TAKEOVER + 30 * DAY),
        (TAKEOVER + 29 * DAY, TAKEOVER + 30 * DAY),
        (TAKEOVER + 29 * DAY + TICK, TAKEOVER + 30 * DAY + TICK),
        (TAKEOVER + 99 * DAY, TAKEOVER + 100 * DAY),
    ],
)
def test_a_standby_signs_a_period_after_its_predecessor_and_a_window_after_its_publication(
    read_back: datetime, activates: datetime
) -> None:
    made = one_pass(RING, TAKEOVER)

    assert one_pass(made, read_back).keys[2].activates_at == activates


def test_a_standby_that_a_fast_clock_made_early_still_waits_for_its_turn() -> None:
    made_by_a_fast_clock = one_pass(RING, TAKEOVER)

    dated_by_a_slow_clock = one_pass(made_by_a_fast_clock, TAKEOVER - SKEW)

    assert dated_by_a_slow_clock.keys[2].activates_at == TAKEOVER + 30 * DAY


def test_a_standby_is_made_once() -> None:
    ring = one_pass(RING, TAKEOVER)

    assert not due(ring, TAKEOVER).make_standby
    assert len(settled(ring, TAKEOVER).keys) == 3


def test_a_standby_is_made_in_place_of_a_revoked_one_and_on_the_schedule_of_its_signer() -> None:
    revoked = replace(RING.keys[1], revoked_at=NOW + DAY, destroyed_at=NOW + DAY)

    ring = settled(replace(RING, keys=(RING.keys[0], revoked)), NOW + DAY)

    assert standby(ring, NOW + DAY) is ring.keys[2]
    assert ring.keys[2].activates_at == TAKEOVER


@pytest.mark.parametrize("late", [SECOND, DAY, 90 * DAY])
def test_a_late_pass_delays_the_rotation_and_breaks_nothing(late: timedelta) -> None:
    dated = settled(NEW, TAKEOVER + late)

    assert dated.keys[1].activates_at == TAKEOVER + late + 24 * HOUR
    assert signer(dated, TAKEOVER + late + 24 * HOUR - TICK) is dated.keys[0]
    assert signer(dated, TAKEOVER + late + 24 * HOUR) is dated.keys[1]


def test_a_month_without_any_pass_is_caught_up_with_in_two() -> None:
    back = TAKEOVER + 31 * DAY

    ring = settled(RING, back, within=2)

    assert [state(ring, each, back) for each in ring.keys] == [
        KeyState.DESTROYED,
        KeyState.ACTIVE,
        KeyState.PRE_ACTIVE,
    ]
    assert ring.keys[2].activates_at == back + 24 * HOUR


def test_a_pass_needs_a_key_only_where_a_standby_is_due() -> None:
    with pytest.raises(ValueError, match="advance needs a fresh key"):
        advance(RING, TAKEOVER)

    assert len(advance(NEW, NOW, public_key(9)).keys) == 2


def test_a_pass_tells_what_it_did() -> None:
    dated = one_pass(NEW, NOW)
    made = one_pass(RING, TAKEOVER + SKEW)

    assert (dated.version, dated.change) == (2, change(NOW, actor="keyturn", action=f"dated {kid(1)}"))
    assert made.change == change(TAKEOVER + SKEW, actor="keyturn", action=f"destroyed {kid(0)}, made standby {kid(2)}")


# The end of a private half


def test_a_private_half_is_destroyed_once_no_clock_takes_its_key_for_the_signer() -> None:
    ring = one_pass(RING, TAKEOVER)

    assert kid(0) not in due(ring, TAKEOVER + SKEW - TICK).destroy
    assert due(ring, TAKEOVER + SKEW).destroy == (kid(0),)
    assert settled(ring, TAKEOVER + DAY).keys[0].destroyed_at == TAKEOVER + DAY


def test_the_private_half_of_a_key_that_still_signs_is_kept() -> None:
    assert due(RING, TAKEOVER - TICK).destroy == ()


# Passes in general


@given(histories(force=True))
def test_what_a_pass_has_done_is_not_due_again(history: History) -> None:
    now = history.now
    before = due(history.ring, now)

    after = due(one_pass(history.ring, now), now)

    assert not after.make_standby
    assert not set(after.publish) & set(before.publish)
    assert not after.destroy
    settled(history.ring, now, within=2)


@given(histories(force=True))
def test_nothing_is_due_before_the_next_due_time_and_something_is_at_it(history: History) -> None:
    now, ring = history.now, history.ring
    when = next_due(ring, now)

    assert when is not None
    assert due(ring, when)
    assert not any(
        due(ring, instant) for instant in (now, now + (when - now) / 2, when - TICK) if now <= instant < when
    )


@pytest.mark.parametrize(
    ("ring", "now", "expected"),
    [
        (NEW, NOW, NOW),
        (RING, NOW, TAKEOVER),
        (RING, TAKEOVER, TAKEOVER),
        (settled(RING, TAKEOVER), TAKEOVER, TAKEOVER + SKEW),
        (settled(RING, TAKEOVER + DAY), TAKEOVER + DAY, TAKEOVER + 30 * DAY),
        # The standby that a fast clock made is there already when the slow clock arrives.
        (settled(settled(RING, TAKEOVER), TAKEOVER - SKEW), TAKEOVER - SKEW, TAKEOVER + SKEW),
    ],
    ids=["unread standby", "rotation", "rotation, now", "destruction", "next rotation", "two standbys"],
)
def test_the_next_due_time_is_that_of_the_next_thing_to_do(ring: Ring, now: datetime, expected: datetime) -> None:
    assert next_due(ring, now) == expected


def test_a_ring_without_any_usable_key_never_makes_one_by_itself() -> None:
    ring = ring_of(key(0, activates_at=NOW, revoked_at=NOW, destroyed_at=NOW))

    assert not due(ring, NOW + DAY)
    assert next_due(ring, NOW + DAY) is None


def test_a_rotation_is_overdue_once_the_signer_has_signed_for_longer_than_a_period() -> None:
    unread = new_ring()

    assert not is_overdue(unread, TAKEOVER)
    assert is_overdue(unread, TAKEOVER + TICK)
    assert not is_overdue(RING, TAKEOVER + TICK)


# What never changes


@given(histories(force=True))
def test_every_change_is_one_version_and_removes_or_moves_no_key(history: History) -> None:
    rings = [version.ring for version in history.versions[:-1]]

    assert [ring.version for ring in rings] == list(range(1, len(rings) + 1))
    for before, after in pairwise([[each.kid for each in ring.keys] for ring in rings]):
        assert after[: len(before)] == before
