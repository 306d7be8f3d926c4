from dataclasses import replace
from datetime import datetime

import pytest

from keyturn_server.domain.errors import InvalidRequestError, NotFoundError, RefusedError
from keyturn_server.domain.key_plans import MAX_PUBLISHED_KEYS, plan_revocation, plan_rotation
from keyturn_server.domain.lifecycle import due
from keyturn_server.domain.plans import MAX_REASON_LENGTH, Plan, Step
from keyturn_server.domain.policy import MAX_SCHEDULED_KEYS
from keyturn_server.domain.ring import KeyState, Ring, deactivates_at, published, signer, state
from tests.rings import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    SKEW,
    TAKEOVER,
    TICK,
    change,
    key,
    kid,
    new_ring,
    public_key,
    ring_of,
    settled,
)

# A new issuer's ring, before and after its first pass.
NEW = new_ring()
RING = settled(NEW, NOW)

KNOWN = NOW + 24 * HOUR
"""When the standby has been published for a propagation window."""


def rotate(ring: Ring, now: datetime, *, force: bool = False, reason: str = "") -> Plan:
    return plan_rotation(ring, change(now, action="rotated", reason=reason), force=force)


def revoke(
    ring: Ring, number: int, now: datetime, *, force: bool = False, reason: str = "leaked", fresh: int | None = None
) -> Plan:
    asked = change(now, action="revoked", reason=reason)
    made = None if fresh is None else public_key(fresh)
    return plan_revocation(ring, kid(number), asked, force=force, fresh=made)


# Rotation ahead of schedule


def test_a_rotation_lets_a_standby_sign_that_every_verifier_knows() -> None:
    plan = rotate(RING, KNOWN)

    assert signer(plan.ring, KNOWN) == replace(RING.keys[1], activates_at=KNOWN)
    assert deactivates_at(plan.ring, plan.ring.keys[0]) == KNOWN
    assert not plan.ring.keys[1].forced
    assert (plan.earliest_safe_time, plan.failures_until, plan.new_keys) == (None, None, 0)


def test_the_plan_of_a_rotation_says_what_becomes_of_both_keys() -> None:
    assert rotate(RING, KNOWN).steps == (
        Step(kid(1), KNOWN, "signs from now on"),
        Step(kid(0), KNOWN, "signs no more"),
        Step(kid(0), KNOWN + 2 * MINUTE, "its private half is destroyed"),
        Step(kid(0), KNOWN + 7 * HOUR + 4 * MINUTE, "leaves the documents: its last token is dead"),
    )


def test_a_plan_is_the_next_version_of_the_ring_that_it_was_planned_on() -> None:
    asked = change(KNOWN, actor="alice", action="rotated", reason="drill")

    plan = plan_rotation(RING, asked, force=False)

    assert plan.planned_on == RING.version
    assert plan.ring.version == RING.version + 1
    assert plan.ring.change is asked


def test_a_rotation_that_a_verifier_may_not_know_of_is_refused_with_the_time_when_it_is_safe() -> None:
    with pytest.raises(RefusedError) as refused:
        rotate(RING, KNOWN - TICK)

    assert refused.value.reason == "STANDBY_TOO_YOUNG"
    assert refused.value.earliest_safe_time == KNOWN
    assert refused.value.message == (
        f"standby {kid(1)} is not known to every verifier before 2026-03-02T12:00:00Z: wait until then, or force it "
        "and accept that verifiers with an older document refuse new tokens until that time"
    )


def test_the_safe_time_in_a_message_is_never_rounded_down() -> None:
    ring = settled(NEW, NOW + TICK)

    with pytest.raises(RefusedError, match="before 2026-03-02T12:00:01Z"):
        rotate(ring, NOW + HOUR)


def test_a_standby_that_no_pass_has_read_back_is_a_window_away_from_safe() -> None:
    with pytest.raises(RefusedError) as refused:
        rotate(NEW, NOW + HOUR)

    assert refused.value.earliest_safe_time == NOW + 25 * HOUR


def test_force_with_a_reason_rotates_and_says_until_when_tokens_may_fail() -> None:
    plan = rotate(RING, NOW + HOUR, force=True, reason="drill")

    assert signer(plan.ring, NOW + HOUR) == replace(RING.keys[1], activates_at=NOW + HOUR, forced=True, reason="drill")
    assert (plan.earliest_safe_time, plan.failures_until) == (KNOWN, KNOWN)


def test_a_forced_standby_that_no_pass_has_read_back_counts_as_published_now() -> None:
    plan = rotate(NEW, NOW + HOUR, force=True, reason="drill")

    assert plan.ring.keys[1].published_at == NOW + HOUR
    assert plan.failures_until == NOW + 25 * HOUR


def test_force_that_was_not_needed_leaves_no_mark() -> None:
    plan = rotate(RING, KNOWN, force=True, reason="drill")

    assert (plan.ring.keys[1].forced, plan.ring.keys[1].reason, plan.failures_until) == (False, "", None)


@pytest.mark.parametrize("reason", ["", " \n"])
def test_force_without_a_reason_is_refused(reason: str) -> None:
    with pytest.raises(InvalidRequestError, match="reason: is needed for force"):
        rotate(RING, KNOWN, force=True, reason=reason)


def test_a_rotation_on_time_needs_no_reason() -> None:
    assert rotate(RING, KNOWN).ring.change.reason == ""


@pytest.mark.parametrize("force", [False, True])
def test_a_reason_is_bounded(force: bool) -> None:
    rotate(RING, KNOWN, force=force, reason="x" * MAX_REASON_LENGTH)

    with pytest.raises(InvalidRequestError, match="reason: has 501 characters; at most 500 are allowed"):
        rotate(RING, KNOWN, force=force, reason="x" * (MAX_REASON_LENGTH + 1))


@pytest.mark.parametrize("force", [False, True])
def test_a_ring_without_standby_cannot_rotate_yet(force: bool) -> None:
    with pytest.raises(RefusedError, match="the next pass makes one") as refused:
        rotate(RING, TAKEOVER, force=force, reason="drill")

    assert refused.value.reason == "NO_STANDBY"


@pytest.mark.parametrize(
    ("force", "full", "would_be"),
    [
        # The takeovers that are scheduled while these keys are published come on top: with this policy, one more.
        (False, MAX_SCHEDULED_KEYS - 1, MAX_SCHEDULED_KEYS + 1),
        (True, MAX_PUBLISHED_KEYS, MAX_PUBLISHED_KEYS + 1),
    ],
)
def test_a_document_that_is_full_is_not_rotated_further(force: bool, full: int, would_be: int) -> None:
    def ring(keys: int) -> Ring:
        """As many published keys, the last of which is the standby."""
        signed = [key(number, published_at=NOW, activates_at=NOW + number * SECOND) for number in range(keys - 1)]
        return ring_of(*signed, key(keys - 1, published_at=NOW - DAY, activates_at=NOW + DAY))

    now = NOW + HOUR
    rotate(ring(full - 1), now, force=force, reason="drill")

    with pytest.raises(RefusedError, match=f"publishes {full} keys, and {would_be} would be too many") as refused:
        rotate(ring(full), now, force=force, reason="drill")
    assert refused.value.reason == "TOO_MANY_KEYS"


def test_revoking_a_key_of_a_retired_issuer_dates_no_other_key() -> None:
    retired = replace(RING, retired_at=KNOWN)

    plan = revoke(retired, 0, KNOWN + SECOND)

    assert plan.ring.keys[1:] == retired.keys[1:]
    assert signer(plan.ring, KNOWN - SKEW) is None


# Revocation


def test_revoking_the_signer_lets_a_standby_sign_that_every_verifier_knows() -> None:
    plan = revoke(RING, 0, KNOWN)

    assert plan.ring.keys[0] == replace(RING.keys[0], revoked_at=KNOWN, destroyed_at=KNOWN, reason="leaked")
    assert plan.ring.keys[1] == replace(RING.keys[1], activates_at=KNOWN - SKEW)
    assert [each.kid for each in published(plan.ring, KNOWN)] == [kid(1)]
    assert (plan.earliest_safe_time, plan.failures_until, plan.new_keys) == (None, None, 0)


def test_after_a_revocation_the_slowest_clock_has_a_signer_too() -> None:
    plan = revoke(RING, 0, KNOWN)

    assert signer(plan.ring, KNOWN - SKEW) is plan.ring.keys[1]


def test_revoking_a_key_that_was_just_relieved_leaves_the_slowest_clock_no_gap() -> None:
    plan = revoke(RING, 0, TAKEOVER + SECOND)

    assert signer(plan.ring, TAKEOVER + SECOND - SKEW) is plan.ring.keys[1]


def test_the_plan_of_a_revocation_says_how_long_the_key_may_still_be_accepted() -> None:
    assert revoke(RING, 0, KNOWN).steps == (
        Step(
            kid(0),
            KNOWN,
            "leaves the documents; its private half is destroyed; its tokens are not to be trusted",
        ),
        Step(
            kid(0),
            KNOWN + 18 * HOUR + 5 * MINUTE,
            "until then a verifier with an older document, or behind a replica that is cut off, may accept its tokens",
        ),
        Step(kid(1), KNOWN, "signs from now on"),
    )


def test_revoking_the_signer_over_a_young_standby_is_refused_with_the_time_when_it_is_safe() -> None:
    with pytest.raises(RefusedError) as refused:
        revoke(RING, 0, KNOWN - TICK)

    assert (refused.value.reason, refused.value.earliest_safe_time) == ("STANDBY_TOO_YOUNG", KNOWN)


def test_force_lets_a_young_standby_sign_and_says_until_when_tokens_may_fail() -> None:
    plan = revoke(RING, 0, NOW + HOUR, force=True)

    assert signer(plan.ring, NOW + HOUR) == replace(
        RING.keys[1], activates_at=NOW + HOUR - SKEW, forced=True, reason="leaked"
    )
    assert (plan.earliest_safe_time, plan.failures_until) == (KNOWN, KNOWN)


def test_revoking_the_signer_without_a_standby_is_refused() -> None:
    with pytest.raises(RefusedError, match="has no standby to take over") as refused:
        revoke(RING, 1, TAKEOVER)

    assert refused.value.reason == "NO_STANDBY"


def test_force_without_a_standby_asks_for_a_new_key_and_lets_it_sign() -> None:
    shown = revoke(RING, 1, TAKEOVER, force=True)
    made = revoke(RING, 1, TAKEOVER, force=True, fresh=2)

    assert shown.new_keys == 1
    assert shown.steps[-1] == Step("", TAKEOVER, "is made and signs from now on")
    assert made.new_keys == 0
    assert made.steps[-1] == Step(kid(2), TAKEOVER, "signs from now on")
    assert signer(made.ring, TAKEOVER) == key(
        2,
        created_at=TAKEOVER,
        published_at=TAKEOVER,
        activates_at=TAKEOVER - SKEW,
        forced=True,
        reason="leaked",
    )
    assert shown.failures_until == made.failures_until == TAKEOVER + 24 * HOUR


def test_a_key_that_was_made_for_nothing_is_not_used() -> None:
    assert revoke(RING, 0, KNOWN, force=True, fresh=2).ring == revoke(RING, 0, KNOWN, force=True).ring


def test_revoking_the_standby_leaves_the_signer_signing() -> None:
    plan = revoke(RING, 1, NOW + HOUR)

    assert plan.ring.keys == (
        RING.keys[0],
        replace(RING.keys[1], revoked_at=NOW + HOUR, destroyed_at=NOW + HOUR, reason="leaked"),
    )
    assert signer(plan.ring, TAKEOVER + DAY) is plan.ring.keys[0]
    assert due(plan.ring, NOW + HOUR).make_standby
    assert plan.steps[-1].description.startswith("the next pass makes a new standby")


def test_revoking_a_deactivated_key_withdraws_it_and_nothing_else() -> None:
    ring = settled(RING, TAKEOVER + HOUR)
    now = TAKEOVER + 2 * HOUR

    plan = revoke(ring, 0, now)

    assert state(ring, ring.keys[0], now) is KeyState.DEACTIVATED
    assert plan.ring.keys == (replace(ring.keys[0], revoked_at=now, reason="leaked"), *ring.keys[1:])
    assert [each.kid for each in published(plan.ring, now)] == [kid(1), kid(2)]


def test_a_new_signer_that_is_revoked_in_the_instant_of_its_rotation_was_the_signer() -> None:
    ring = rotate(RING, KNOWN).ring

    plan = revoke(ring, 1, KNOWN, force=True, fresh=2)

    assert signer(plan.ring, KNOWN) is plan.ring.keys[2]
    assert deactivates_at(plan.ring, plan.ring.keys[0]) == KNOWN


@pytest.mark.parametrize(
    ("ring", "now", "what"),
    [
        (revoke(RING, 0, KNOWN).ring, KNOWN, "compromised"),
        (settled(RING, TAKEOVER + DAY), TAKEOVER + DAY, "destroyed"),
    ],
    ids=["revoked", "destroyed"],
)
def test_a_key_that_is_gone_already_is_not_revoked_again(ring: Ring, now: datetime, what: str) -> None:
    with pytest.raises(RefusedError, match=f"key {kid(0)} is {what}: there is nothing left") as refused:
        revoke(ring, 0, now, force=True)

    assert refused.value.reason == "ALREADY_WITHDRAWN"


def test_a_key_that_the_ring_does_not_have_is_not_found() -> None:
    with pytest.raises(NotFoundError, match=f"issuer contoso has no key {kid(9)}") as missing:
        revoke(RING, 9, KNOWN)

    assert missing.value.reason == "NO_SUCH_KEY"


@pytest.mark.parametrize("number", [0, 1, 9])
@pytest.mark.parametrize("reason", ["", "\t ", "x" * (MAX_REASON_LENGTH + 1)], ids=["none", "blank", "long"])
def test_a_revocation_always_has_a_reason(number: int, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        revoke(RING, number, KNOWN, reason=reason)

    assert [violation.field for violation in refused.value.violations] == ["reason"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_plan_of_a_revocation_is_the_next_version_of_the_ring_that_it_was_planned_on(number: int) -> None:
    plan = revoke(RING, number, KNOWN)

    assert (plan.planned_on, plan.ring.version) == (RING.version, RING.version + 1)
    assert plan.ring.change == change(KNOWN, action="revoked", reason="leaked")


# After retirement


def test_a_retired_issuer_rotates_no_more_but_its_keys_can_be_revoked() -> None:
    ring = replace(RING, retired_at=KNOWN)

    with pytest.raises(RefusedError) as refused:
        rotate(ring, KNOWN)
    plan = revoke(ring, 0, KNOWN + HOUR)

    assert refused.value.reason == "ISSUER_RETIRED"
    assert [each.kid for each in published(plan.ring, KNOWN + HOUR)] == [kid(1)]
    assert signer(plan.ring, KNOWN + HOUR) is None
