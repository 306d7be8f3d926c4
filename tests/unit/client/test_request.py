import enum
import math
from collections import UserString
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from keyturn._request import call_timeout, sign_token_request, signed_token
from keyturn.v1 import signing_pb2

MAX_INTEGER = 9_007_199_254_740_991


class Tier(enum.StrEnum):
    GOLD = "gold"


def request(**arguments: Any) -> signing_pb2.SignTokenRequest:
    complete: dict[str, Any] = {
        "subject": "87b4",
        "context": None,
        "issuer": "",
        "lifetime": None,
        "additional_claims": None,
    }
    return sign_token_request(**(complete | arguments))


def nested(levels: int) -> dict[str, object]:
    claims: dict[str, object] = {"a": 1}
    for _ in range(levels - 1):
        claims = {"a": claims}
    return claims


def test_a_subject_alone_makes_a_request_that_leaves_all_else_to_the_service() -> None:
    assert request() == signing_pb2.SignTokenRequest(subject="87b4")
    assert not request().HasField("lifetime")
    assert not request().HasField("additional_claims")


def test_every_argument_arrives_in_its_field() -> None:
    made = request(subject="s", issuer="contoso", lifetime=timedelta(minutes=15), additional_claims={"tier": "gold"})

    assert (made.subject, made.issuer) == ("s", "contoso")
    assert made.lifetime.ToTimedelta() == timedelta(minutes=15)
    assert dict(made.additional_claims) == {"tier": "gold"}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("10000", "string_value"),
        ("", "string_value"),
        ("grüße 🗝", "string_value"),
        (Tier.GOLD, "string_value"),
        (True, "bool_value"),
        (False, "bool_value"),
        (0, "integer_value"),
        (MAX_INTEGER, "integer_value"),
        (-MAX_INTEGER, "integer_value"),
        (0.0, "number_value"),
        (-1.5, "number_value"),
        (1e300, "number_value"),
    ],
)
def test_a_context_value_is_sent_with_its_own_type(value: object, field: str) -> None:
    sent = request(context={"cart": value}).context["cart"]

    assert sent.WhichOneof("kind") == field
    assert getattr(sent, field) == value


NOT_JSON = "must be what JSON can say (str, bool, int, float, None, list or dict), not"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subject": None}, "subject must be str, not NoneType"),
        ({"subject": b"87b4"}, "subject must be str, not bytes"),
        ({"issuer": None}, "issuer must be str, not NoneType"),
        ({"lifetime": 900}, "lifetime must be timedelta, not int"),
        ({"context": [("cart", "1")]}, "context must be a mapping, not list"),
        ({"context": ""}, "context must be a mapping, not str"),
        ({"context": {1: "x"}}, "a name in context must be str, not int"),
        ({"context": {"cart": None}}, 'context["cart"] must be str, bool, int or float, not NoneType'),
        ({"context": {"cart": Decimal(1)}}, 'context["cart"] must be str, bool, int or float, not Decimal'),
        ({"context": {"cart": ["1"]}}, 'context["cart"] must be str, bool, int or float, not list'),
        ({"context": {'"\n': b""}}, 'context["\\"\\n"] must be str, bool, int or float, not bytes'),
        ({"additional_claims": "tier"}, "additional_claims must be a mapping, not str"),
        ({"additional_claims": {1: "x"}}, "a name in additional_claims must be str, not int"),
        ({"additional_claims": {"a": {None: 1}}}, 'a name in additional_claims["a"] must be str, not NoneType'),
        ({"additional_claims": {"a": [UserString("x")]}}, f'additional_claims["a"][0] {NOT_JSON} UserString'),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_place(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as raised:
        request(**arguments)

    assert str(raised.value) == message


INTEGERS = " must be from -(2^53-1) to 2^53-1, the integers that JavaScript reads exactly"
SURROGATE = " holds a lone surrogate, which UTF-8 cannot encode"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subject": "private\ud800"}, f"subject{SURROGATE}"),
        ({"issuer": "private\udfff"}, f"issuer{SURROGATE}"),
        ({"context": {"cart": "private\ud800"}}, f'context["cart"]{SURROGATE}'),
        ({"context": {"\ud800": "private"}}, f'context["\\ud800"]{SURROGATE}'),
        ({"context": {"cart": MAX_INTEGER + 1}}, f'context["cart"]{INTEGERS}'),
        ({"context": {"cart": -MAX_INTEGER - 1}}, f'context["cart"]{INTEGERS}'),
        ({"context": {"cart": math.nan}}, 'context["cart"] must be a finite number'),
        ({"context": {"cart": -math.inf}}, 'context["cart"] must be a finite number'),
        ({"additional_claims": {"a": ["private\ud800"]}}, f'additional_claims["a"][0]{SURROGATE}'),
        ({"additional_claims": {"a": {"\ud800": 1}}}, f'additional_claims["a"]["\\ud800"]{SURROGATE}'),
        ({"additional_claims": {"a": MAX_INTEGER + 1}}, f'additional_claims["a"]{INTEGERS}'),
        ({"additional_claims": {"a": {"b": math.inf}}}, 'additional_claims["a"]["b"] must be a finite number'),
    ],
)
def test_a_value_that_the_wire_cannot_carry_is_refused_without_being_quoted(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        request(**arguments)

    assert str(raised.value) == message


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"tier": "gold", "vip": True, "score": 1.5, "visits": MAX_INTEGER, "agent": None},
        {"empty": {"list": [], "dict": {}}},
        {"lists": ["a", 1, [True, None, {"deep": [0.5]}]]},
    ],
)
def test_claims_arrive_as_the_json_that_they_are(claims: dict[str, object]) -> None:
    made = request(additional_claims=claims)

    assert made.HasField("additional_claims")
    assert made.additional_claims == json_format.ParseDict(claims, Struct())
    assert signing_pb2.SignTokenRequest.FromString(made.SerializeToString()) == made


def test_claims_take_tuples_for_lists_and_any_mapping_for_a_dict() -> None:
    made = request(additional_claims=MappingProxyType({"a": (1, MappingProxyType({"b": "c"}))}))

    assert json_format.MessageToDict(made.additional_claims) == {"a": [1, {"b": "c"}]}


def test_claims_that_contain_themselves_or_nest_without_end_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)

    assert request(additional_claims=nested(16)).HasField("additional_claims")
    for claims in ({"a": endless}, nested(17)):
        with pytest.raises(ValueError, match=r'^additional_claims\["a"\].* more than 16 levels deep$'):
            request(additional_claims=claims)


@pytest.mark.parametrize("timeout", [0.001, 5, 5.0, 3600])
def test_a_timeout_is_a_number_of_seconds(timeout: float) -> None:
    assert call_timeout(timeout) == timeout


@pytest.mark.parametrize("timeout", [0, -1, -0.5, math.nan, math.inf])
def test_a_timeout_that_never_or_always_has_passed_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match=f"^timeout must be a positive, finite number of seconds, not {timeout}$"):
        call_timeout(timeout)


@pytest.mark.parametrize("timeout", [None, "5", True, timedelta(seconds=5)])
def test_a_timeout_of_another_type_is_refused(timeout: object) -> None:
    with pytest.raises(TypeError, match=r"^timeout must be a number of seconds, not "):
        call_timeout(timeout)


def test_an_answer_becomes_a_token_with_aware_times_in_utc() -> None:
    signed = signed_token(
        signing_pb2.SignTokenResponse(
            token="a.b.c",
            key_id="kid",
            token_id="jti",
            issue_time=Timestamp(seconds=1_800_000_000),
            expire_time=Timestamp(seconds=1_800_000_900),
        )
    )

    assert (signed.token, signed.key_id, signed.token_id) == ("a.b.c", "kid", "jti")
    assert signed.issued_at == datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
    assert signed.expires_at - signed.issued_at == timedelta(minutes=15)
    assert signed.issued_at.tzinfo is signed.expires_at.tzinfo is UTC


def test_the_repr_of_a_signed_token_shows_its_identifiers_and_not_the_token() -> None:
    shown = repr(signed_token(signing_pb2.SignTokenResponse(token="a.b.c", key_id="kid", token_id="jti")))

    assert "a.b.c" not in shown
    assert "key_id='kid', token_id='jti'" in shown
