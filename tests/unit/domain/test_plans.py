from datetime import datetime

import pytest

from keyturn_server.domain.issuer_plans import plan_issuer
from keyturn_server.domain.key_plans import plan_revocation, plan_rotation
from keyturn_server.domain.plans import KeyOutlook, Plan, accepted_until
from keyturn_server.domain.ring import KeyState
from tests.rings import DAY, HOUR, MINUTE, NOW, POLICY, TAKEOVER, change, kid, new_ring, public_key, settled

RING = settled(new_ring(), NOW)
ROTATED = settled(RING, TAKEOVER)
COVERAGE = POLICY.coverage(HOUR)


def rotated(now: datetime) -> Plan:
    return plan_rotation(ROTATED, change(now), force=False)


def revoked(number: int, now: datetime) -> Plan:
    return plan_revocation(ROTATED, kid(number), change(now, reason="leaked"), force=True)


def outlook(kid: str, before: KeyState | None, after: KeyState, tokens_until: datetime | None) -> KeyOutlook:
    return KeyOutlook(kid=kid, before=before, after=after, tokens_until=tokens_until)


def made() -> Plan:
    return plan_issuer("contoso", "https://contoso.example", POLICY, change(), [public_key(0), public_key(1)])


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (
            rotated(TAKEOVER + DAY),
            [
                outlook(kid(1), KeyState.ACTIVE, KeyState.DEACTIVATED, TAKEOVER + DAY + COVERAGE),
                outlook(kid(2), KeyState.PRE_ACTIVE, KeyState.ACTIVE, None),
            ],
        ),
        (
            revoked(1, TAKEOVER + HOUR),
            [
                outlook(kid(0), KeyState.DEACTIVATED, KeyState.DEACTIVATED, TAKEOVER + COVERAGE),
                outlook(kid(1), KeyState.ACTIVE, KeyState.COMPROMISED, TAKEOVER + 19 * HOUR + 5 * MINUTE),
                outlook(kid(2), KeyState.PRE_ACTIVE, KeyState.ACTIVE, None),
            ],
        ),
        (
            made(),
            [
                outlook(kid(0), None, KeyState.ACTIVE, None),
                outlook(kid(1), None, KeyState.PRE_ACTIVE, None),
            ],
        ),
    ],
    ids=["rotation", "revocation", "new issuer"],
)
def test_a_plan_shows_every_published_key_before_and_after(plan: Plan, expected: list[KeyOutlook]) -> None:
    assert list(plan.outlook()) == expected


def test_a_revoked_key_may_be_accepted_by_a_verifier_behind_the_last_replica_to_hear_of_it() -> None:
    assert accepted_until(RING, NOW) == NOW + 12 * HOUR + 5 * MINUTE + 6 * HOUR


def test_a_plan_holds_for_the_version_that_it_was_made_on() -> None:
    assert rotated(TAKEOVER + DAY).planned_on == ROTATED.version
    assert made().planned_on == 0
