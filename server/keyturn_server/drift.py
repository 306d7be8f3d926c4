"""Where the configuration, which is a wish, differs from what is in force."""

from collections.abc import Iterator, Mapping
from dataclasses import fields

from keyturn_server.domain.policy import Policy
from keyturn_server.domain.ring import Ring


def drift(
    policies: Mapping[str, Policy], iss_claims: Mapping[str, str], rings: Mapping[str, Ring]
) -> Iterator[tuple[str, str]]:
    """Each difference, as the issuer and a sentence that says what would end it."""
    for issuer in sorted(policies.keys() - rings.keys()):
        yield issuer, "is configured and not in the store: `keyturn issuers apply` makes it"
    for issuer, ring in sorted(rings.items()):
        if ring.retired_at is not None:
            if issuer in policies:
                yield issuer, "was retired and is configured still: remove it from the configuration"
        elif issuer not in policies:
            yield issuer, "is in the store and not configured: `keyturn issuers retire` ends it"
        else:
            if ring.iss != iss_claims[issuer]:
                yield issuer, f"signs as {ring.iss!r}, and {iss_claims[issuer]!r} is configured: make another issuer"
            changed = "; ".join(_changed(ring.policy, policies[issuer]))
            if changed:
                yield issuer, f"{changed}: `keyturn issuers apply` puts the configured policy in force"


def _changed(in_force: Policy, configured: Policy) -> Iterator[str]:
    for field in fields(Policy):
        now, wanted = getattr(in_force, field.name), getattr(configured, field.name)
        if now != wanted:
            yield f"{field.name} is {now}, configured {wanted}"
