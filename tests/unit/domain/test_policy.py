from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyturn_server.domain.errors import PolicyError
from keyturn_server.domain.policy import Policy
from tests.rings import DAY, HOUR, MINUTE, POLICY, SECOND, TICK

ZERO = timedelta(0)


def policy(**times: Any) -> Policy:
    """The default policy with other times."""
    return replace(POLICY, **times)


@pytest.mark.parametrize("max_age", [ZERO, SECOND / 2, SECOND])
def test_times_of_seconds_make_a_policy_too(max_age: timedelta) -> None:
    Policy(
        rotation_period=6 * SECOND,
        propagation_window=5 * SECOND,
        max_token_lifetime=SECOND,
        verifier_cache=2 * SECOND,
        document_max_age=max_age,
        signing_lease=SECOND,
        clock_tolerance=SECOND / 2,
    )


@pytest.mark.parametrize(
    "times",
    [
        {"propagation_window": 18 * HOUR + 7 * MINUTE},
        {"verifier_cache": 17 * HOUR + 53 * MINUTE},
        {"document_max_age": 5 * HOUR + 58 * MINUTE},
        {"signing_lease": 11 * HOUR + 53 * MINUTE},
        {"clock_tolerance": 2 * HOUR + 57.5 * MINUTE},
    ],
    ids=lambda times: next(iter(times)),
)
def test_a_window_as_long_as_a_new_key_takes_to_every_verifier_is_the_shortest(times: dict[str, timedelta]) -> None:
    tight = policy(**times)

    with pytest.raises(PolicyError) as refused:
        replace(tight, propagation_window=tight.propagation_window - TICK)

    assert refused.value.setting == "propagation_window"


def test_a_refused_window_is_told_with_its_numbers() -> None:
    with pytest.raises(PolicyError) as refused:
        policy(propagation_window=18 * HOUR)

    assert refused.value.message == (
        "propagation_window is 18:00:00 and must be at least 18:07:00: verifier_cache (12:00:00) + max_age (0:05:00) "
        "+ signing_lease (6:00:00) + 2 x clock tolerance (0:01:00)"
    )


def test_a_key_signs_for_longer_than_the_next_one_takes_to_propagate() -> None:
    policy(rotation_period=24 * HOUR + TICK)

    with pytest.raises(PolicyError) as refused:
        policy(rotation_period=24 * HOUR)

    assert refused.value.setting == "rotation_period"
    assert refused.value.message == (
        "rotation_period is 1 day, 0:00:00 and must be longer than propagation_window (1 day, 0:00:00)"
    )


def test_a_document_holds_twenty_scheduled_keys_and_never_more() -> None:
    most = 18 * POLICY.rotation_period - POLICY.signing_lease - 4 * POLICY.clock_tolerance

    assert policy(max_token_lifetime=most).most_published_keys == 20
    with pytest.raises(PolicyError) as refused:
        policy(max_token_lifetime=most + TICK)

    assert refused.value.setting == "rotation_period"
    assert refused.value.message == (
        "rotation_period is 30 days, 0:00:00, so that 21 keys would be published at once, more than 20: after they "
        "stop signing, keys stay published for 540 days, 0:00:00.000001 (max_token_lifetime + signing_lease + 4 x "
        "clock tolerance)"
    )


@pytest.mark.parametrize(
    ("lifetime", "keys"),
    [
        (HOUR, 3),
        (30 * DAY - 6 * HOUR - 4 * MINUTE, 3),
        (30 * DAY - 6 * HOUR - 4 * MINUTE + TICK, 4),
        (60 * DAY, 5),
    ],
)
def test_the_longer_tokens_live_the_more_keys_are_published_at_once(lifetime: timedelta, keys: int) -> None:
    assert policy(max_token_lifetime=lifetime).most_published_keys == keys


def test_a_key_stays_published_for_its_last_token_on_the_slowest_clocks() -> None:
    assert POLICY.coverage(HOUR) == HOUR + 6 * HOUR + 4 * MINUTE
    assert POLICY.coverage(15 * MINUTE) == 15 * MINUTE + 6 * HOUR + 4 * MINUTE


@pytest.mark.parametrize(
    "setting",
    [
        "rotation_period",
        "propagation_window",
        "max_token_lifetime",
        "verifier_cache",
        "document_max_age",
        "signing_lease",
        "clock_tolerance",
    ],
)
def test_no_time_is_negative(setting: str) -> None:
    with pytest.raises(PolicyError) as refused:
        policy(**{setting: -TICK})

    assert refused.value.setting == setting
    assert refused.value.message == f"{setting} is negative (-1 day, 23:59:59.999999)"


@pytest.mark.parametrize("setting", ["verifier_cache", "document_max_age", "clock_tolerance"])
def test_nothing_needs_to_be_cached_and_clocks_may_be_exact(setting: str) -> None:
    policy(**{setting: ZERO})


def test_tokens_live_for_a_second_at_least() -> None:
    policy(max_token_lifetime=SECOND)

    with pytest.raises(PolicyError, match="less than 1 second") as refused:
        policy(max_token_lifetime=SECOND - TICK)

    assert refused.value.setting == "max_token_lifetime"


def test_a_replica_may_sign_for_some_time_without_its_store() -> None:
    policy(signing_lease=TICK)

    with pytest.raises(PolicyError, match="no replica could ever sign") as refused:
        policy(signing_lease=ZERO)

    assert refused.value.setting == "signing_lease"


@pytest.mark.parametrize("size", [2048, 3072, 4096])
def test_a_key_size_that_verifiers_know_is_taken(size: int) -> None:
    assert policy(key_size=size).key_size == size


@pytest.mark.parametrize("size", [0, 1024, 2047, 2049, 8192])
def test_another_key_size_is_refused(size: int) -> None:
    with pytest.raises(PolicyError, match=f"key_size is {size}; it may be 2048, 3072, 4096") as refused:
        policy(key_size=size)

    assert refused.value.setting == "key_size"
