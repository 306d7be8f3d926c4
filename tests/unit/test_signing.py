import dataclasses
from datetime import timedelta
from typing import Any

import jwt
import pytest

from keyturn_server.domain.callers import Caller
from keyturn_server.domain.claims import SignedToken, TokenRequest, TokenRules
from keyturn_server.domain.errors import InvalidRequestError, NotPermittedError, UnavailableError
from keyturn_server.domain.ring import Key, Ring
from tests.replicas import Replica, World, new_world
from tests.rings import DAY, HOUR, MINUTE, NOW, POLICY, SECOND, SKEW, TICK

DEFAULT = HOUR / 2
"""The default token lifetime of every issuer here."""

TAKEOVER = NOW - SKEW + POLICY.rotation_period
"""When the standby of an issuer that is new at `NOW` takes over."""


def caller(*issuers: str, **facts: Any) -> Caller:
    return Caller(identity="spiffe://contoso.example/website", issuers=frozenset(issuers or {"contoso"}), **facts)


def request(**said: Any) -> TokenRequest:
    return TokenRequest(**({"subject": "somebody"} | said))


def claims(replica: Replica, signed: SignedToken, issuer: str = "contoso") -> dict[str, Any]:
    """The claims of a token whose signature its ring's key verifies."""
    key = replica.rings.current(issuer).find(signed.key_id)
    assert key is not None
    assert jwt.get_unverified_header(signed.token) == {"alg": "RS256", "kid": key.kid, "typ": "JWT"}
    jwk = jwt.PyJWK({**key.public_key.members(), "alg": "RS256"})
    unchecked = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
    decoded: dict[str, Any] = jwt.decode(signed.token, jwk, options=unchecked)  # type: ignore[arg-type]
    return decoded


def refusal(replica: Replica, asking: Caller, asked: TokenRequest) -> UnavailableError:
    with pytest.raises(UnavailableError) as refused:
        replica.signing.sign(asking, asked)
    return refused.value


async def holding(world: World, ring: Ring) -> Replica:
    """A replica whose ring is this one."""
    world.database.rings.clear()
    await world.append(dataclasses.replace(ring, version=1))
    replica = Replica(world)
    await replica.rings.refresh()
    return replica


async def test_a_token_verifies_with_the_signers_public_key_and_says_what_was_asked_for() -> None:
    replica = await (await new_world()).replica()

    signed = replica.signing.sign(caller(), request(context={"vip": True}, lifetime=10 * MINUTE))

    assert signed.key_id == replica.rings.current("contoso").keys[0].kid
    assert claims(replica, signed) == {
        "iss": "https://contoso.example",
        "sub": "somebody",
        "iat": (NOW - MINUTE).timestamp(),
        "nbf": (NOW - MINUTE).timestamp(),
        "exp": (NOW + 10 * MINUTE).timestamp(),
        "jti": signed.token_id,
        "lwicontexts": '{"vip":true}',
    }
    assert (signed.issued_at, signed.expires_at) == ((NOW - MINUTE).timestamp(), (NOW + 10 * MINUTE).timestamp())


async def test_each_token_has_an_identifier_of_its_own() -> None:
    replica = await (await new_world()).replica()

    tokens = [replica.signing.sign(caller(), request()) for _ in range(3)]

    assert len({signed.token_id for signed in tokens}) == 3


async def test_signing_does_not_ask_the_store() -> None:
    replica = await (await new_world()).replica()
    replica.store.asked.clear()

    replica.signing.sign(caller(), request())

    assert replica.store.asked == []


async def test_no_token_is_shown_by_accident() -> None:
    replica = await (await new_world()).replica()

    signed = replica.signing.sign(caller(), request())

    assert signed.token not in repr(signed)


@pytest.mark.parametrize(("now", "number"), [(TAKEOVER - TICK, 0), (TAKEOVER, 1)], ids=["before", "from then on"])
async def test_the_standby_signs_from_its_activation_on(now: Any, number: int) -> None:
    replica = await (await new_world()).replica()

    replica.clock.time = now
    signed = replica.signing.sign(caller(), request())

    assert signed.key_id == replica.rings.current("contoso").keys[number].kid


# Lifetimes


@pytest.mark.parametrize(
    ("callers_maximum", "asked", "given"),
    [
        (None, None, DEFAULT),
        (10 * MINUTE, None, 10 * MINUTE),
        (2 * HOUR, None, DEFAULT),
        (None, HOUR, HOUR),
        (10 * MINUTE, 10 * MINUTE, 10 * MINUTE),
        (2 * HOUR, HOUR, HOUR),
        (10 * MINUTE, SECOND, SECOND),
    ],
)
async def test_a_token_lives_as_long_as_asked_for_or_for_the_default_where_the_caller_may_have_that_much(
    callers_maximum: timedelta | None, asked: timedelta | None, given: timedelta
) -> None:
    replica = await (await new_world()).replica()

    signed = replica.signing.sign(caller(max_token_lifetime=callers_maximum), request(lifetime=asked))

    assert claims(replica, signed)["exp"] == (NOW + given).timestamp()


@pytest.mark.parametrize("callers_maximum", [None, 10 * MINUTE])
@pytest.mark.parametrize("bound", ["key", "policy"])
async def test_no_token_lives_longer_than_its_key_may_sign_for_or_the_policy_in_force_allows(
    bound: str, callers_maximum: timedelta | None
) -> None:
    world = await new_world()
    ring = await world.stored()
    if bound == "key":
        cautious = dataclasses.replace(ring.keys[0], max_lifetime=5 * MINUTE)
        ring = dataclasses.replace(ring, keys=(cautious, ring.keys[1]))
    else:
        ring = dataclasses.replace(ring, policy=dataclasses.replace(POLICY, max_token_lifetime=5 * MINUTE))
    replica = await holding(world, ring)
    asking = caller(max_token_lifetime=callers_maximum)

    assert replica.signing.sign(asking, request()).expires_at == (NOW + 5 * MINUTE).timestamp()
    with pytest.raises(InvalidRequestError, match="1 to 300 seconds"):
        replica.signing.sign(asking, request(lifetime=5 * MINUTE + SECOND))


@pytest.mark.parametrize(
    ("callers_maximum", "asked", "allowed"),
    [
        (None, HOUR + SECOND, "1 to 3600 seconds"),
        (2 * HOUR, HOUR + SECOND, "1 to 3600 seconds"),
        (10 * MINUTE, 10 * MINUTE + SECOND, "1 to 600 seconds"),
        (None, timedelta(0), "1 to 3600 seconds"),
    ],
)
async def test_a_lifetime_beyond_what_caller_issuer_or_key_allows_is_refused(
    callers_maximum: timedelta | None, asked: timedelta, allowed: str
) -> None:
    replica = await (await new_world()).replica()

    with pytest.raises(InvalidRequestError) as refused:
        replica.signing.sign(caller(max_token_lifetime=callers_maximum), request(lifetime=asked))

    (violation,) = refused.value.violations
    assert violation.field == "lifetime"
    assert allowed in violation.description


# Issuers


async def test_a_caller_of_one_issuer_need_not_name_it_and_one_of_several_must() -> None:
    replica = await (await new_world("contoso", "fabrikam")).replica()

    signed = replica.signing.sign(caller("fabrikam"), request())
    assert claims(replica, signed, "fabrikam")["iss"] == "https://fabrikam.example"

    signed = replica.signing.sign(caller("contoso", "fabrikam"), request(issuer="fabrikam"))
    assert claims(replica, signed, "fabrikam")["iss"] == "https://fabrikam.example"

    with pytest.raises(InvalidRequestError, match="issuer"):
        replica.signing.sign(caller("contoso", "fabrikam"), request())


async def test_an_issuer_that_does_not_exist_and_one_that_is_not_the_callers_cannot_be_told_apart() -> None:
    replica = await (await new_world("contoso", "fabrikam")).replica()
    told = {}
    for issuer in ("fabrikam", "nobody"):
        with pytest.raises(NotPermittedError) as refused:
            replica.signing.sign(caller("contoso"), request(issuer=issuer))
        error = refused.value
        told[issuer] = (error.message.replace(issuer, "…"), error.reason, error.metadata)

    assert told["fabrikam"] == told["nobody"]


async def test_each_issuers_tokens_follow_its_own_rules() -> None:
    world = await new_world("contoso", "fabrikam")
    world.rules = {
        "contoso": TokenRules(default_lifetime=DEFAULT, audience="chat"),
        "fabrikam": TokenRules(default_lifetime=MINUTE),
    }
    replica = await world.replica()

    contoso, fabrikam = (replica.signing.sign(caller(issuer), request()) for issuer in ("contoso", "fabrikam"))

    assert claims(replica, contoso)["aud"] == "chat"
    assert "aud" not in claims(replica, fabrikam, "fabrikam")
    assert fabrikam.expires_at == (NOW + MINUTE).timestamp()


# What a caller may say


async def test_a_caller_sets_those_further_claims_that_it_may_set() -> None:
    replica = await (await new_world()).replica()
    asking = caller(additional_claims=frozenset({"locale"}))

    signed = replica.signing.sign(asking, request(additional_claims={"locale": "de"}))
    assert claims(replica, signed)["locale"] == "de"

    with pytest.raises(InvalidRequestError, match="tenant"):
        replica.signing.sign(asking, request(additional_claims={"tenant": "x"}))


async def test_a_token_that_no_header_could_carry_is_not_given_away() -> None:
    replica = await (await new_world()).replica()

    with pytest.raises(InvalidRequestError, match="at most 8192"):
        replica.signing.sign(caller(), request(context={"a": "x" * 4000, "b": "x" * 4000}))


# What keeps a key from signing


async def test_an_issuer_that_is_configured_and_not_yet_in_the_store_is_unavailable() -> None:
    replica = await (await new_world("contoso")).replica()

    assert refusal(replica, caller("fabrikam"), request()).reason == "ISSUER_NOT_IN_STORE"


async def test_before_the_store_was_read_and_after_the_lease_nothing_is_signed() -> None:
    world = await new_world()
    assert refusal(Replica(world), caller(), request()).reason == "NO_SNAPSHOT"

    replica = await world.replica()
    replica.clock.uptime += POLICY.signing_lease.total_seconds()
    replica.signing.sign(caller(), request())
    replica.clock.uptime += 1
    assert refusal(replica, caller(), request()).reason == "SIGNING_LEASE_OVER"


async def test_where_no_key_may_sign_yet_nothing_is_signed() -> None:
    world = await new_world()
    ring = await world.stored()
    later = dataclasses.replace(ring.keys[0], activates_at=NOW + TICK)
    replica = await holding(world, dataclasses.replace(ring, keys=(later, ring.keys[1])))

    assert refusal(replica, caller(), request()).reason == "NO_SIGNER"
    replica.clock.advance(TICK)
    replica.signing.sign(caller(), request())


async def test_where_the_signers_private_key_cannot_be_used_no_other_key_takes_its_place() -> None:
    world = await new_world("contoso", "fabrikam")
    ring = await world.stored()
    del world.database.keys["contoso", ring.keys[0].kid]
    replica = await world.replica()

    assert refusal(replica, caller(), request()).reason == "KEY_UNUSABLE"
    replica.signing.sign(caller("fabrikam"), request())


def _relieved(ring: Ring, relieved_at: Any) -> tuple[Key, Key]:
    """The first key, which signs again since its successor, which took over at that time, was revoked."""
    first, second = ring.keys
    revoked = dataclasses.replace(second, published_at=NOW - 10 * DAY, activates_at=relieved_at, revoked_at=NOW)
    return dataclasses.replace(first, activates_at=NOW - 20 * DAY), revoked


COVERAGE = POLICY.coverage(POLICY.max_token_lifetime)


@pytest.mark.parametrize(("left", "covered"), [(MINUTE, True), (MINUTE - TICK, False)])
async def test_a_token_that_would_outlive_the_publication_of_its_key_is_not_signed(
    left: timedelta, covered: bool
) -> None:
    world = await new_world()
    ring = await world.stored()
    replica = await holding(world, dataclasses.replace(ring, keys=_relieved(ring, NOW - COVERAGE + left)))

    if covered:
        assert replica.signing.sign(caller(), request(lifetime=MINUTE)).expires_at == (NOW + MINUTE).timestamp()
    else:
        assert refusal(replica, caller(), request(lifetime=MINUTE)).reason == "KEY_NOT_COVERING"
