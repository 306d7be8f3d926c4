from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.message import Message

from keyturn.v1 import keys_pb2, signing_pb2
from keyturn_server.domain.claims import ContextValue, SignedToken, TokenRequest
from keyturn_server.domain.errors import InvalidRequestError
from keyturn_server.domain.plans import Plan, Step
from keyturn_server.domain.ring import KeyState
from keyturn_server.grpc import translate
from tests.rings import DAY, HOUR, MINUTE, NOW, POLICY, SECOND, TICK, key, kid, new_ring, ring_of

D = duration_pb2.Duration
LATER = NOW + DAY


def token_request(**said: Any) -> TokenRequest:
    return translate.token_request(signing_pb2.SignTokenRequest(**said))


def stamp(time: datetime) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=int(time.timestamp()), nanos=time.microsecond * 1000)


def said(message: Message) -> dict[str, Any]:
    """The fields that are set, by name."""
    return {field.name: value for field, value in message.ListFields()}


def names(message: type[Message]) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.fields}


def only_violation(error: InvalidRequestError) -> str:
    (violation,) = error.violations
    return violation.field


# A request


def test_a_request_that_says_nothing_asks_for_the_defaults() -> None:
    assert token_request() == TokenRequest(subject="")


def test_every_field_of_a_request_is_taken_over() -> None:
    claims = struct_pb2.Struct()
    claims.update({"locale": "de"})
    request = signing_pb2.SignTokenRequest(
        issuer="contoso",
        subject="somebody",
        context={"vip": signing_pb2.ContextValue(bool_value=True)},
        lifetime=D(seconds=600),
        additional_claims=claims,
    )
    assert {field.name for field, _ in request.ListFields()} == names(signing_pb2.SignTokenRequest)

    assert translate.token_request(request) == TokenRequest(
        issuer="contoso",
        subject="somebody",
        context={"vip": True},
        lifetime=timedelta(minutes=10),
        additional_claims={"locale": "de"},
    )


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (signing_pb2.ContextValue(string_value="10000"), "10000"),
        (signing_pb2.ContextValue(string_value=""), ""),
        (signing_pb2.ContextValue(number_value=1.5), 1.5),
        (signing_pb2.ContextValue(number_value=0), 0.0),
        (signing_pb2.ContextValue(integer_value=2**63 - 1), 2**63 - 1),
        (signing_pb2.ContextValue(integer_value=0), 0),
        (signing_pb2.ContextValue(bool_value=False), False),
        (signing_pb2.ContextValue(), None),
    ],
    ids=str,
)
def test_a_context_value_keeps_the_type_in_which_it_was_sent(
    sent: signing_pb2.ContextValue, value: ContextValue
) -> None:
    taken = token_request(context={"name": sent}).context["name"]

    assert (taken, type(taken)) == (value, type(value))


# Lifetimes


@pytest.mark.parametrize(
    ("sent", "lifetime"),
    [
        (None, None),
        (D(), timedelta(0)),
        (D(seconds=600), 10 * MINUTE),
        (D(seconds=1, nanos=999_999_999), 2 * SECOND - TICK),
        (D(nanos=999), timedelta(0)),
        (D(seconds=-5), -5 * SECOND),
        (D(seconds=315_576_000_000), timedelta(seconds=315_576_000_000)),
    ],
    ids=str,
)
def test_a_lifetime_is_taken_as_it_was_sent_and_an_absent_one_is_not_zero(sent: D | None, lifetime: Any) -> None:
    assert token_request(lifetime=sent).lifetime == lifetime


@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63), 86_400 * 10**9])
def test_a_lifetime_beyond_all_bounds_is_a_violation_and_no_bug(seconds: int) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        token_request(lifetime=D(seconds=seconds))

    assert only_violation(refused.value) == "lifetime"


# Additional claims


V = struct_pb2.Value


def struct(**fields: V) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields=fields)


def listed(*values: V) -> V:
    return V(list_value=struct_pb2.ListValue(values=values))


@pytest.mark.parametrize(
    ("sent", "claim"),
    [
        (V(null_value=struct_pb2.NULL_VALUE), None),
        (V(number_value=1.5), 1.5),
        (V(number_value=0), 0.0),
        (V(string_value=""), ""),
        (V(string_value="ä"), "ä"),
        (V(bool_value=False), False),
        (V(struct_value=struct()), {}),
        (V(struct_value=struct(a=V(struct_value=struct(b=V(number_value=1))))), {"a": {"b": 1.0}}),
        (listed(), []),
        (listed(V(string_value="a"), listed(V(bool_value=True)), V(struct_value=struct())), ["a", [True], {}]),
    ],
    ids=range(10),
)
def test_an_additional_claim_of_any_kind_is_taken_over(sent: V, claim: Any) -> None:
    taken = token_request(additional_claims=struct(claim=sent)).additional_claims

    assert taken == {"claim": claim}
    assert type(taken["claim"]) is type(claim)


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        (V(), 'additional_claims["claim"]'),
        (V(struct_value=struct(member=V())), 'additional_claims["claim"]["member"]'),
        (listed(V(bool_value=True), V()), 'additional_claims["claim"][1]'),
        (listed(V(struct_value=struct(a=listed(V())))), 'additional_claims["claim"][0]["a"][0]'),
    ],
)
def test_an_additional_claim_without_a_value_is_named(sent: V, path: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        token_request(additional_claims=struct(claim=sent))

    assert only_violation(refused.value) == path


# Answers to callers


def test_every_field_of_a_signed_token_is_told() -> None:
    signed = SignedToken(token="a.b.c", key_id="k", token_id="t", issued_at=1_700_000_000, expires_at=1_700_003_600)

    response = translate.sign_token_response(signed)

    assert set(said(response)) == names(signing_pb2.SignTokenResponse)
    assert (response.token, response.key_id, response.token_id) == ("a.b.c", "k", "t")
    assert response.issue_time == timestamp_pb2.Timestamp(seconds=1_700_000_000)
    assert response.expire_time == timestamp_pb2.Timestamp(seconds=1_700_003_600)


# Answers to operators


def test_every_field_of_an_issuer_is_told() -> None:
    issuer = translate.issuer(new_ring(), NOW)

    assert set(said(issuer)) == names(keys_pb2.Issuer) - {"retire_time"}
    assert (issuer.id, issuer.iss, issuer.ring_version, issuer.signer_key_id) == (
        "contoso",
        "https://contoso.example",
        1,
        kid(0),
    )
    assert issuer.policy == translate.policy_message(POLICY)


def test_an_issuer_that_was_retired_says_when_and_has_no_signer() -> None:
    issuer = translate.issuer(replace(new_ring(), retired_at=NOW), LATER)

    assert set(said(issuer)) == names(keys_pb2.Issuer) - {"signer_key_id"}
    assert issuer.retire_time == stamp(NOW)


def test_an_issuer_that_cannot_sign_has_no_signer() -> None:
    assert translate.issuer(ring_of(key(0, activates_at=NOW + TICK)), NOW).signer_key_id == ""


def test_a_ring_is_told_with_its_keys_in_their_order_and_the_instant_it_was_looked_at() -> None:
    ring = ring_of(key(1, activates_at=NOW), key(0))

    message = translate.key_ring(ring, LATER)

    assert set(said(message)) == names(keys_pb2.KeyRing) - {"retire_time"}
    assert (message.issuer, message.version, message.as_of) == ("contoso", 7, stamp(LATER))
    assert [told.key_id for told in message.keys] == [kid(1), kid(0)]


def test_a_ring_of_a_retired_issuer_says_since_when() -> None:
    assert translate.key_ring(replace(new_ring(), retired_at=NOW), LATER).retire_time == stamp(NOW)


def test_of_a_key_only_what_has_come_about_is_told() -> None:
    (message,) = translate.key_ring(ring_of(key(0)), NOW).keys

    assert set(said(message)) == {"key_id", "state", "create_time"}


def test_every_time_of_a_key_is_told() -> None:
    times = {
        "created_at": NOW - 9 * DAY,
        "published_at": NOW - 8 * DAY,
        "activates_at": NOW - 7 * DAY,
        "destroyed_at": NOW - 5 * DAY,
    }
    ring = ring_of(key(0, **times), key(1, activates_at=NOW - 6 * DAY + TICK))

    message = translate.key_ring(ring, NOW).keys[0]

    assert said(message) == {
        "key_id": kid(0),
        "state": keys_pb2.KEY_STATE_DESTROYED,
        "create_time": stamp(NOW - 9 * DAY),
        "publish_time": stamp(NOW - 8 * DAY),
        "activate_time": stamp(NOW - 7 * DAY),
        "deactivate_time": stamp(NOW - 6 * DAY + TICK),
        "unpublish_time": stamp(NOW - 6 * DAY + TICK + HOUR + 6 * HOUR + 4 * MINUTE),
        "destroy_time": stamp(NOW - 5 * DAY),
    }


def test_a_revocation_and_its_reason_are_told() -> None:
    ring = ring_of(key(0, activates_at=NOW, revoked_at=LATER, destroyed_at=LATER, forced=True, reason="leaked"))

    (message,) = translate.key_ring(ring, LATER).keys

    assert message.revoke_time == message.unpublish_time == message.destroy_time == stamp(LATER)
    assert (message.forced, message.reason) == (True, "leaked")
    assert names(keys_pb2.Key) - set(said(message)) == {"publish_time", "deactivate_time"}


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"activates_at": NOW + TICK}, KeyState.PRE_ACTIVE),
        ({"activates_at": NOW}, KeyState.ACTIVE),
        ({"activates_at": NOW - 2 * DAY}, KeyState.DEACTIVATED),
        ({"revoked_at": NOW}, KeyState.COMPROMISED),
        ({"activates_at": NOW - 2 * DAY, "destroyed_at": NOW}, KeyState.DESTROYED),
    ],
    ids=lambda value: value if isinstance(value, KeyState) else "",
)
def test_every_state_has_its_name_in_the_contract(facts: dict[str, Any], state: KeyState) -> None:
    relieved = state in {KeyState.DEACTIVATED, KeyState.DESTROYED}
    ring = ring_of(key(0, **facts), *([key(1, activates_at=NOW - DAY)] if relieved else []))

    message = translate.key_ring(ring, NOW).keys[0]

    assert keys_pb2.KeyState.Name(message.state) == f"KEY_STATE_{state.name}"


def test_every_state_of_the_contract_but_the_unspecified_one_is_one_of_the_domain() -> None:
    told = {name.removeprefix("KEY_STATE_") for name in keys_pb2.KeyState.DESCRIPTOR.values_by_name}

    assert told == {state.name for state in KeyState} | {"UNSPECIFIED"}


# Plans


def test_every_field_of_a_plan_is_told() -> None:
    before = new_ring()
    plan = Plan(
        before=before,
        ring=replace(before, version=2),
        steps=(Step(kid(0), NOW, "signs from now on"), Step("", LATER, "is made")),
        earliest_safe_time=LATER,
        failures="new tokens fail",
        failures_until=LATER + TICK,
        new_keys=1,
    )

    message = translate.plan(plan)

    assert set(said(message)) == names(keys_pb2.Plan)
    assert message.ring_version == 1
    assert [(step.key_id, step.time, step.description) for step in message.steps] == [
        (kid(0), stamp(NOW), "signs from now on"),
        ("", stamp(LATER), "is made"),
    ]
    assert (message.earliest_safe_time, message.failures_until) == (stamp(LATER), stamp(LATER + TICK))
    assert message.failures == "new tokens fail"


def test_a_plan_tells_of_every_key_what_it_is_and_what_it_will_be() -> None:
    before = ring_of(key(0, activates_at=NOW - DAY), key(1, activates_at=LATER))
    revoked = key(0, activates_at=NOW - DAY, revoked_at=NOW, destroyed_at=NOW)
    after = replace(before, version=8, keys=(revoked, key(1, activates_at=NOW), key(2)))

    first, second, third = translate.plan(Plan(before=before, ring=after, steps=())).keys

    assert said(first) == {
        "key_id": kid(0),
        "state_before": keys_pb2.KEY_STATE_ACTIVE,
        "state_after": keys_pb2.KEY_STATE_COMPROMISED,
        "tokens_until": stamp(NOW + 12 * HOUR + 5 * MINUTE + 6 * HOUR),
    }
    assert said(second) == {
        "key_id": kid(1),
        "state_before": keys_pb2.KEY_STATE_PRE_ACTIVE,
        "state_after": keys_pb2.KEY_STATE_ACTIVE,
    }
    assert said(third) == {"key_id": kid(2), "state_after": keys_pb2.KEY_STATE_PRE_ACTIVE}


def test_a_plan_that_breaks_nothing_tells_no_times_of_trouble() -> None:
    ring = ring_of(key(0))

    assert set(said(translate.plan(Plan(before=ring, ring=ring, steps=())))) == {"ring_version", "keys"}


def test_the_plan_of_a_new_issuer_holds_for_version_0() -> None:
    message = translate.plan(Plan(before=None, ring=new_ring(), steps=()))

    assert message.ring_version == 0
    assert [key.state_before for key in message.keys] == [keys_pb2.KEY_STATE_UNSPECIFIED] * 2


# Policies


def test_every_setting_of_a_policy_is_told_and_understood() -> None:
    policy = replace(POLICY, key_size=3072)

    message = translate.policy_message(policy)

    assert set(said(message)) == names(keys_pb2.Policy)
    assert {name: value.ToTimedelta() for name, value in said(message).items() if name != "key_size"} == {
        "rotation_period": 30 * DAY,
        "propagation_window": DAY,
        "max_token_lifetime": HOUR,
        "verifier_cache": 12 * HOUR,
        "document_max_age": 5 * MINUTE,
        "signing_lease": 6 * HOUR,
        "clock_tolerance": MINUTE,
    }
    assert message.key_size == 3072
    assert translate.policy(message) == policy


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rotation_period": D(seconds=3600)}, "policy.rotation_period"),
        ({"propagation_window": D(seconds=3600)}, "policy.propagation_window"),
        ({"max_token_lifetime": D()}, "policy.max_token_lifetime"),
        ({"signing_lease": D()}, "policy.signing_lease"),
        ({"verifier_cache": D(seconds=-1)}, "policy.verifier_cache"),
        ({"document_max_age": D(seconds=2**63 - 1)}, "policy.document_max_age"),
        ({"clock_tolerance": D(seconds=-(2**63))}, "policy.clock_tolerance"),
        ({"key_size": 0}, "policy.key_size"),
        ({"key_size": 1024}, "policy.key_size"),
    ],
    ids=str,
)
def test_a_setting_that_breaks_a_rule_is_named_as_a_field_of_the_request(change: dict[str, Any], field: str) -> None:
    message = keys_pb2.Policy(**(said(translate.policy_message(POLICY)) | change))

    with pytest.raises(InvalidRequestError) as refused:
        translate.policy(message)

    assert only_violation(refused.value) == field


def test_a_policy_that_says_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        translate.policy(keys_pb2.Policy())


def test_times_are_told_in_utc_wherever_they_were_taken() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert NOW.tzinfo is UTC

    assert translate.key_ring(ring_of(key(0)), elsewhere).as_of == stamp(NOW)
