from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from keyturn_server.domain.errors import InvalidRequestError, RefusedError
from keyturn_server.domain.issuer_plans import plan_issuer, plan_policy, plan_retirement
from keyturn_server.domain.lifecycle import due, first_ring, next_due
from keyturn_server.domain.plans import Plan, Step
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import FormerPolicy, Ring, known_at, published, published_until, signer, standby
from tests.rings import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    POLICY,
    SECOND,
    SKEW,
    TAKEOVER,
    change,
    kid,
    new_ring,
    one_pass,
    public_key,
    settled,
)

# A new issuer's ring after its first pass, and after its first rotation.
RING = settled(new_ring(), NOW)
ROTATED = settled(RING, TAKEOVER)
LATER = NOW + HOUR

WIDER = {"propagation_window": 30 * HOUR, "verifier_cache": 18 * HOUR}


def apply(ring: Ring, now: datetime, **settings: Any) -> Plan:
    return plan_policy(ring, ring.iss, replace(ring.policy, **settings), change(now, action="applied"))


def retire(ring: Ring, now: datetime, reason: str = "moved away") -> Plan:
    return plan_retirement(ring, change(now, action="retired", reason=reason))


# Making an issuer


def make(keys: Sequence[PublicKey] = (), issuer: str = "contoso", iss: str = "https://contoso.example") -> Plan:
    return plan_issuer(issuer, iss, POLICY, change(action="made"), keys)


def test_an_issuer_is_made_with_a_signer_and_a_standby() -> None:
    plan = make([public_key(0), public_key(1)])

    assert plan.ring == first_ring(
        "contoso", "https://contoso.example", POLICY, (public_key(0), public_key(1)), change(action="made")
    )
    assert (plan.before, plan.planned_on, plan.new_keys) == (None, 0, 0)
    assert plan.steps == (
        Step(kid(0), NOW, "signs from now on: the first signer of a new issuer"),
        Step(kid(1), NOW, "is its standby, published by the next pass"),
    )


def test_a_plan_to_make_an_issuer_asks_for_its_keys() -> None:
    plan = make()

    assert plan.new_keys == 2
    assert [step.kid for step in plan.steps] == ["", ""]


def test_both_names_of_an_issuer_are_checked_at_once() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        make(issuer="Contoso", iss="")

    assert [violation.field for violation in refused.value.violations] == ["issuer", "iss"]


# Another policy


def test_the_policy_in_force_changes_nothing_when_it_is_applied_again() -> None:
    plan = apply(RING, LATER)

    assert not plan.changes
    assert plan.ring is RING
    assert plan.steps == ()


def test_another_policy_is_the_next_version_of_the_ring() -> None:
    plan = apply(RING, LATER, rotation_period=60 * DAY)

    assert plan.changes
    assert plan.ring.policy == replace(POLICY, rotation_period=60 * DAY)
    assert (plan.planned_on, plan.ring.version) == (RING.version, RING.version + 1)
    assert plan.ring.keys == RING.keys


def test_the_iss_of_an_issuer_never_changes() -> None:
    with pytest.raises(RefusedError, match="make another issuer for 'other'") as refused:
        plan_policy(RING, "other", POLICY, change(LATER))

    assert refused.value.reason == "ISS_CHANGED"


def test_a_raised_window_delays_a_dated_standby_until_every_verifier_knows_it() -> None:
    young = settled(new_ring(), TAKEOVER - DAY)

    plan = apply(young, TAKEOVER - HOUR, **WIDER)

    assert young.keys[1].activates_at == TAKEOVER
    assert plan.ring.keys[1].activates_at == TAKEOVER + 6 * HOUR
    assert plan.steps[-1] == Step(
        kid(1), TAKEOVER + 6 * HOUR, "signs from then on, later than planned, so that every verifier knows it"
    )


def test_a_raised_window_leaves_a_standby_that_is_known_by_then_on_schedule() -> None:
    assert apply(RING, LATER, **WIDER).ring.keys[1].activates_at == TAKEOVER


def test_a_raised_lifetime_counts_at_once_for_the_keys_that_sign_or_will_sign() -> None:
    plan = apply(ROTATED, TAKEOVER + HOUR, max_token_lifetime=2 * HOUR)

    assert [each.max_lifetime for each in plan.ring.keys] == [HOUR, 2 * HOUR, 2 * HOUR]


def test_a_lowered_lifetime_leaves_keys_published_for_the_tokens_that_they_have_signed() -> None:
    plan = apply(ROTATED, TAKEOVER + HOUR, max_token_lifetime=MINUTE)

    assert [each.max_lifetime for each in plan.ring.keys] == [HOUR] * 3


@pytest.mark.parametrize(
    ("lowered", "remembered"),
    [
        ({"signing_lease": HOUR}, True),
        ({"propagation_window": 20 * HOUR}, True),
        ({"clock_tolerance": SECOND}, True),
        ({"document_max_age": MINUTE}, True),
        ({"verifier_cache": HOUR}, False),
        ({"max_token_lifetime": MINUTE}, False),
        ({"rotation_period": 7 * DAY}, False),
        ({"signing_lease": 7 * HOUR}, False),
    ],
    ids=str,
)
def test_what_was_made_under_a_longer_time_goes_on_living_by_it(
    lowered: dict[str, timedelta], remembered: bool
) -> None:
    former = apply(RING, LATER, **lowered).ring.former_policies

    assert former == ((FormerPolicy(POLICY, LATER),) if remembered else ())


def test_a_lowered_window_counts_only_for_keys_that_are_published_later() -> None:
    ring = apply(RING, LATER, propagation_window=20 * HOUR).ring

    assert known_at(ring, NOW) == NOW + 24 * HOUR
    assert known_at(ring, LATER + HOUR) == LATER + 24 * HOUR
    assert known_at(ring, LATER + 5 * HOUR) == LATER + 25 * HOUR


def test_a_standby_that_is_read_back_after_its_window_was_lowered_waits_for_older_documents_to_go() -> None:
    late = TAKEOVER + 29 * DAY + HOUR
    made = one_pass(RING, TAKEOVER)
    ring = apply(made, late, propagation_window=20 * HOUR).ring

    assert one_pass(ring, late + 3 * HOUR).keys[2].activates_at == late + 24 * HOUR
    assert one_pass(ring, late + 5 * HOUR).keys[2].activates_at == late + 25 * HOUR


def test_a_lowered_lease_counts_only_for_keys_that_are_deactivated_later() -> None:
    ring = apply(ROTATED, TAKEOVER + HOUR, signing_lease=HOUR).ring

    assert published_until(ring, ring.keys[0]) == published_until(ROTATED, ROTATED.keys[0])


def test_a_former_policy_is_forgotten_once_nothing_lives_by_it() -> None:
    once = apply(RING, LATER, signing_lease=5 * HOUR).ring
    twice = apply(once, LATER + 24 * HOUR - SECOND, signing_lease=4 * HOUR).ring
    late = apply(once, LATER + 24 * HOUR, signing_lease=4 * HOUR).ring

    assert [former.policy.signing_lease for former in twice.former_policies] == [6 * HOUR, 5 * HOUR]
    assert [former.policy.signing_lease for former in late.former_policies] == [5 * HOUR]


def test_the_plan_of_a_policy_says_what_changes_from_what_to_what_and_from_when() -> None:
    plan = apply(RING, LATER, rotation_period=60 * DAY, max_token_lifetime=2 * HOUR, signing_lease=HOUR)

    assert plan.steps == (
        Step(
            "",
            LATER,
            "rotation_period changes from 30 days, 0:00:00 to 60 days, 0:00:00, for the standbys that are made from "
            "now on",
        ),
        Step("", LATER, "max_token_lifetime changes from 1:00:00 to 2:00:00"),
        Step(
            "",
            LATER + 24 * HOUR,
            "signing_lease changes from 6:00:00 to 1:00:00; what was made before lives by the old one until then",
        ),
    )


def test_a_policy_under_which_a_document_could_grow_too_long_is_refused() -> None:
    with pytest.raises(RefusedError) as refused:
        apply(ROTATED, TAKEOVER + HOUR, max_token_lifetime=18 * 30 * DAY - 7 * HOUR)

    assert refused.value.reason == "TOO_MANY_KEYS"


# Retirement


def test_a_retired_issuer_signs_no_more_and_gets_no_more_keys() -> None:
    ring = retire(RING, LATER).ring

    assert signer(ring, LATER) is None
    assert standby(ring, TAKEOVER + DAY) is None
    assert not due(ring, LATER)


def test_the_documents_of_a_retired_issuer_stay_until_its_last_token_is_dead() -> None:
    plan = retire(RING, LATER)
    until = LATER + 7 * HOUR + 4 * MINUTE

    assert [each.kid for each in published(plan.ring, until - SECOND)] == [kid(0), kid(1)]
    assert published(plan.ring, until) == ()
    assert plan.steps == (
        Step("", LATER, "the issuer signs no more: every request for it fails"),
        Step("", LATER + SKEW, "its private keys are destroyed"),
        Step("", until, "its last token is dead: its documents are gone"),
    )


def test_the_private_halves_of_a_retired_issuer_are_destroyed_once_no_clock_signs() -> None:
    ring = retire(RING, LATER).ring

    assert due(ring, LATER + SKEW - SECOND).destroy == ()
    assert due(ring, LATER + SKEW).destroy == (kid(0), kid(1))
    assert next_due(ring, LATER) == LATER + SKEW
    assert next_due(settled(ring, LATER + SKEW), LATER + SKEW) is None


def test_a_standby_of_a_retired_issuer_that_no_pass_has_read_back_is_never_dated() -> None:
    ring = retire(new_ring(), LATER).ring

    assert not due(ring, LATER)


def test_a_retirement_needs_a_reason() -> None:
    with pytest.raises(InvalidRequestError, match="reason: is needed for retirement"):
        retire(RING, LATER, reason=" ")


def test_a_retired_issuer_does_not_come_back() -> None:
    ring = retire(RING, LATER).ring

    with pytest.raises(RefusedError, match="it cannot come back") as refused:
        retire(ring, LATER)
    assert refused.value.reason == "ISSUER_RETIRED"
    with pytest.raises(RefusedError, match="it cannot come back"):
        apply(ring, LATER, rotation_period=60 * DAY)
