"""Policies for histories: any that keeps its promises, most of them with nothing to spare."""

from collections.abc import Mapping
from datetime import timedelta
from random import Random
from typing import Any

from keyturn_server.domain.errors import PolicyError
from keyturn_server.domain.policy import MAX_SCHEDULED_KEYS, Policy

UNITS = (1.0, 10.0, 60.0, 600.0, 3600.0)


def random_policy(random: Random) -> Policy:
    """A policy whose times are between a fraction of a second and a few days."""
    unit = random.choice(UNITS)
    tolerance = unit * random.choice((0.0, 0.05, 0.2, 1.0))
    lease = unit * random.uniform(1, 4)
    cache = lease * random.choice((0.0, 0.3, 1.0, 2.0))
    max_age = unit * random.choice((0.0, 0.1, 1.0))
    lifetime = max(1.0, round(unit * random.uniform(0.5, 8)))
    window = (cache + max_age + lease + 2 * tolerance) * random.choice((1.0, 1.0, 1.1, 1.5))
    return _with_period(
        {
            "propagation_window": window,
            "max_token_lifetime": lifetime,
            "verifier_cache": cache,
            "document_max_age": max_age,
            "signing_lease": lease,
            "clock_tolerance": tolerance,
        },
        random.choice((1.01, 1.01, 1.1, 1.3)),
    )


def changed_policy(random: Random, policy: Policy, least_lease: float) -> Policy | None:
    """The policy with some of its times raised or lowered; None where that would not keep its promises."""
    values: dict[str, Any] = {}
    for name in ("max_token_lifetime", "verifier_cache", "document_max_age", "signing_lease"):
        factor = random.choice((1.0, 1.0, 1.0, 0.5, 0.8, 1.3, 2.0))
        values[name] = getattr(policy, name).total_seconds() * factor
    values["signing_lease"] = max(values["signing_lease"], least_lease)
    values["max_token_lifetime"] = max(1.0, round(values["max_token_lifetime"]))
    values["clock_tolerance"] = policy.clock_tolerance.total_seconds()
    values["propagation_window"] = random.choice((1.0, 1.0, 1.2)) * (
        values["verifier_cache"] + values["document_max_age"] + values["signing_lease"] + 2 * values["clock_tolerance"]
    )
    try:
        return _with_period(values, random.choice((1.01, 1.01, 1.1, 1.3, 2.0)))
    except PolicyError:
        return None


def _with_period(values: Mapping[str, float], factor: float) -> Policy:
    """The policy of these seconds, with a period that is `factor` times as long as it must be."""
    times: dict[str, Any] = {name: timedelta(seconds=round(value, 3)) for name, value in values.items()}
    needed = times["verifier_cache"] + times["document_max_age"] + times["signing_lease"] + 2 * times["clock_tolerance"]
    times["propagation_window"] = max(times["propagation_window"], needed)
    coverage = times["max_token_lifetime"] + times["signing_lease"] + 4 * times["clock_tolerance"]
    shortest = max(times["propagation_window"], coverage / (MAX_SCHEDULED_KEYS - 2))
    return Policy(rotation_period=shortest * factor + timedelta(milliseconds=1), **times)
