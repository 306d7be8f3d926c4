import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_server.domain.claims import (
    MAX_CLAIM_DEPTH,
    MAX_CONTEXT_VARIABLES,
    MAX_EXACT_INTEGER,
    MAX_NAME_LENGTH,
    MAX_SUBJECT_LENGTH,
    MAX_TOKEN_BYTES,
    MAX_VALUE_LENGTH,
    RESERVED_CLAIMS,
    Claims,
    Terms,
    TokenRequest,
    TokenRules,
    VariableType,
    check_size,
    compose,
)
from keyturn_server.domain.errors import InvalidRequestError
from tests.rings import HOUR, MINUTE, NOW, SECOND, TICK

CONTACT = "87b4d06c-abc2-e811-a9b0-000d3a10e09e"
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")

ANY_VARIABLES = TokenRules(default_lifetime=15 * MINUTE)
DECLARED = TokenRules(
    default_lifetime=15 * MINUTE,
    context_variables={"msdyn_cartvalue": VariableType.NUMBER, "msdyn_isvip": VariableType.TEXT},
)


def terms(*, now: datetime = NOW, tolerance: timedelta = MINUTE, allowed: frozenset[str] = frozenset()) -> Terms:
    return Terms(
        iss="https://contoso.example",
        token_id="0123456789abcdef",
        now=now,
        clock_tolerance=tolerance,
        max_lifetime=HOUR,
        allowed_claims=allowed,
    )


def request(**fields: Any) -> TokenRequest:
    return TokenRequest(**({"subject": CONTACT} | fields))


def payload(claims: Claims) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(claims.payload)
    return read


def context(claims: Claims) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(payload(claims)["lwicontexts"])
    return read


def violations(
    asked: TokenRequest, rules: TokenRules = ANY_VARIABLES, agreed: Terms | None = None
) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequestError) as refused:
        compose(asked, rules, agreed or terms())
    return [(violation.field, violation.description) for violation in refused.value.violations]


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else "deep inside"


# What a token says


def test_a_token_says_who_the_customer_is_to_whom_by_whom_and_when() -> None:
    claims = compose(request(), ANY_VARIABLES, terms())

    assert payload(claims) == {
        "iss": "https://contoso.example",
        "sub": CONTACT,
        "iat": 1772366340,
        "nbf": 1772366340,
        "exp": 1772367300,
        "jti": "0123456789abcdef",
    }
    assert (claims.token_id, claims.issued_at, claims.expires_at) == ("0123456789abcdef", 1772366340, 1772367300)


def test_the_context_is_a_string_that_holds_json() -> None:
    asked = {"msdyn_cartvalue": "10000", "msdyn_isvip": "false"}

    claims = compose(request(context=asked), DECLARED, terms())

    assert payload(claims)["lwicontexts"] == '{"msdyn_cartvalue":"10000","msdyn_isvip":"false"}'


def test_the_same_context_in_another_order_is_the_same_token() -> None:
    one = compose(request(context={"a": 1, "b": 2}), ANY_VARIABLES, terms())
    other = compose(request(context={"b": 2, "a": 1}), ANY_VARIABLES, terms())

    assert one == other


@pytest.mark.parametrize(
    ("sent", "emitted"),
    [
        ("10000", '"10000"'),
        ("", '""'),
        ("false", '"false"'),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-17, "-17"),
        (10000.0, "10000"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        ("grüße", '"gr\\u00fc\\u00dfe"'),
    ],
)
def test_a_context_value_is_emitted_with_the_type_in_which_it_was_sent(sent: Any, emitted: str) -> None:
    claims = compose(request(context={"variable": sent}), ANY_VARIABLES, terms())

    assert payload(claims)["lwicontexts"] == f'{{"variable":{emitted}}}'


def test_names_of_variables_keep_their_case() -> None:
    claims = compose(request(context={"Cart": 1, "cart": 2}), ANY_VARIABLES, terms())

    assert context(claims) == {"Cart": 1, "cart": 2}


def test_without_context_there_is_no_claim_for_it() -> None:
    assert "lwicontexts" not in payload(compose(request(context={}), ANY_VARIABLES, terms()))


def test_an_audience_is_named_only_where_one_is_configured() -> None:
    rules = TokenRules(default_lifetime=MINUTE, audience="omnichannel")

    assert payload(compose(request(), rules, terms()))["aud"] == "omnichannel"
    assert "aud" not in payload(compose(request(), ANY_VARIABLES, terms()))


def test_additional_claims_stand_beside_the_registered_ones() -> None:
    asked = {"tier": "gold", "scores": [1.0, 2.5, None, True], "address": {"city": "Köln"}}

    claims = compose(request(additional_claims=asked), ANY_VARIABLES, terms(allowed=frozenset(asked)))

    assert payload(claims).items() >= asked.items()
    assert b'"scores":[1,2.5,null,true]' in claims.payload


def test_a_payload_is_ascii_because_the_widget_decodes_it_with_atob() -> None:
    asked = request(subject="Grüße 🗝", context={"größe": "日本"}, additional_claims={"stadt": "Köln"})

    claims = compose(asked, ANY_VARIABLES, terms(allowed=frozenset({"stadt"})))

    assert claims.payload.isascii()
    assert (payload(claims)["sub"], context(claims), payload(claims)["stadt"]) == ("Grüße 🗝", {"größe": "日本"}, "Köln")


def test_a_payload_does_not_show_itself_in_logs() -> None:
    assert CONTACT not in repr(compose(request(), ANY_VARIABLES, terms()))


# Times


@pytest.mark.parametrize(
    ("lifetime", "seconds"),
    [(None, 900), (SECOND, 1), (2 * SECOND - TICK, 1), (59.9 * SECOND, 59), (HOUR, 3600)],
    ids=str,
)
def test_a_token_lives_for_the_whole_seconds_asked_for(lifetime: timedelta | None, seconds: int) -> None:
    claims = compose(request(lifetime=lifetime), ANY_VARIABLES, terms())

    assert payload(claims)["exp"] == 1772366400 + seconds


@given(
    second=st.integers(0, 4 * 10**9),
    tolerance=st.integers(0, 10**9).map(lambda microseconds: microseconds * TICK),
    fraction=st.sampled_from([0 * TICK, TICK, SECOND / 2, SECOND - TICK]),
)
def test_a_token_is_valid_from_now_less_the_tolerance_and_never_longer_than_asked(
    second: int, tolerance: timedelta, fraction: timedelta
) -> None:
    now = EPOCH + second * SECOND + fraction + tolerance

    claims = payload(compose(request(lifetime=MINUTE), ANY_VARIABLES, terms(now=now, tolerance=tolerance)))

    assert claims["iat"] == claims["nbf"] == second
    assert claims["exp"] == (now - EPOCH) // SECOND + 60


# What is refused


@pytest.mark.parametrize(
    ("subject", "description"),
    [
        ("", "has 0 characters; it must have 1 to 255"),
        ("x" * 256, "has 256 characters; it must have 1 to 255"),
        ("🗝" * 128, "has 256 characters; it must have 1 to 255"),
        ("\ud800", "is not valid Unicode"),
    ],
    ids=["empty", "long", "long in UTF-16", "lone surrogate"],
)
def test_a_subject_is_1_to_255_characters_of_unicode(subject: str, description: str) -> None:
    assert violations(request(subject=subject)) == [("subject", description)]


@pytest.mark.parametrize(
    ("name", "field", "description"),
    [
        ("", 'context[""]', "the name has 0 characters; it must have 1 to 100"),
        ("x" * 101, f'context["{"x" * 20}\\u2026"]', "the name has 101 characters; it must have 1 to 100"),
        ("\udfff", 'context["\\udfff"]', "the name is not valid Unicode"),
    ],
    ids=["empty", "long", "lone surrogate"],
)
def test_the_name_of_a_variable_is_1_to_100_characters_of_unicode(name: str, field: str, description: str) -> None:
    assert violations(request(context={name: 1})) == [(field, description)]


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (None, "has no value: one of string, number, integer and bool must be set"),
        ("x" * 4001, "has 4001 characters; at most 4000 are allowed"),
        ("🗝" * 2001, "has 4002 characters; at most 4000 are allowed"),
        ("x\udc00", "is not valid Unicode"),
        (math.nan, "is not a finite number"),
        (math.inf, "is not a finite number"),
        (-math.inf, "is not a finite number"),
        (2**53, "is an integer beyond -(2^53-1) to 2^53-1, the range that JavaScript reads exactly"),
        (-(2**53), "is an integer beyond -(2^53-1) to 2^53-1, the range that JavaScript reads exactly"),
    ],
    ids=["none", "long", "long in UTF-16", "lone surrogate", "NaN", "infinity", "-infinity", "large", "small"],
)
def test_the_value_of_a_variable_is_a_primitive_that_javascript_reads_exactly(value: Any, description: str) -> None:
    assert violations(request(context={"cart": value})) == [('context["cart"]', description)]


NOT_A_NUMBER = 'is declared as a number: a number or a decimal string such as "10000" or "-1.5"'


@pytest.mark.parametrize("value", [0, -17, 1.5, 1e300, "10000", "-1.5", "007", "0.0"])
def test_a_number_variable_takes_numbers_and_decimal_strings(value: Any) -> None:
    assert context(compose(request(context={"msdyn_cartvalue": value}), DECLARED, terms())) == {
        "msdyn_cartvalue": value
    }


@pytest.mark.parametrize(
    "value", ["", " 1", "1\n", "+1", "1e5", ".5", "1.", "1,5", "1_000", "0x10", "NaN", "Infinity", "--1", "١"]
)
def test_a_number_variable_takes_no_other_string(value: str) -> None:
    assert violations(request(context={"msdyn_cartvalue": value}), DECLARED) == [
        ('context["msdyn_cartvalue"]', NOT_A_NUMBER)
    ]


@pytest.mark.parametrize("value", [True, False])
def test_a_number_variable_takes_no_boolean(value: bool) -> None:
    assert violations(request(context={"msdyn_cartvalue": value}), DECLARED) == [
        ('context["msdyn_cartvalue"]', "is declared as a number, and a boolean was sent")
    ]


@pytest.mark.parametrize("value", ["", "false", "10000", "grüße", True, False])
def test_a_text_variable_takes_strings_and_booleans(value: Any) -> None:
    assert context(compose(request(context={"msdyn_isvip": value}), DECLARED, terms())) == {"msdyn_isvip": value}


@pytest.mark.parametrize("value", [0, 1, -1.5, math.nan])
def test_a_text_variable_takes_no_number(value: float) -> None:
    assert violations(request(context={"msdyn_isvip": value}), DECLARED) == [
        ('context["msdyn_isvip"]', "is declared as text, and a number was sent")
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("msdyn_unknown", ""),
        ("MSDYN_IsVip", "; names are case-sensitive: did you mean msdyn_isvip?"),
        ("msdyn_isvip ", ""),
    ],
)
def test_a_name_that_the_issuer_does_not_declare_is_refused_with_a_hint(name: str, hint: str) -> None:
    assert violations(request(context={name: "x"}), DECLARED) == [
        (f'context["{name}"]', f"is not among the context variables that the issuer declares{hint}")
    ]


def test_a_hundred_variables_are_the_most() -> None:
    def variables(count: int) -> Mapping[str, int]:
        return {f"v{number}": number for number in range(count)}

    compose(request(context=variables(MAX_CONTEXT_VARIABLES)), ANY_VARIABLES, terms())

    assert violations(request(context=variables(MAX_CONTEXT_VARIABLES + 1))) == [
        ("context", "has 101 variables; at most 100 are allowed")
    ]


@pytest.mark.parametrize(
    ("lifetime", "told"),
    [
        (timedelta(0), "0"),
        (-SECOND, "-1"),
        (SECOND - TICK, "0.999999"),
        (HOUR + SECOND, "3601"),
        (HOUR + TICK, "3600"),
        (timedelta.max, "8.64e+13"),
    ],
    ids=["none", "negative", "less than a second", "a second more", "a tick more", "endless"],
)
def test_a_lifetime_is_from_one_second_to_what_caller_issuer_and_key_allow(lifetime: timedelta, told: str) -> None:
    assert violations(request(lifetime=lifetime)) == [
        ("lifetime", f"is {told} seconds; 1 to 3600 seconds are allowed"),
    ]


@pytest.mark.parametrize("name", sorted(RESERVED_CLAIMS))
def test_a_reserved_claim_is_nobodys_to_set(name: str) -> None:
    asked = request(additional_claims={name: "x"})

    assert violations(asked, agreed=terms(allowed=frozenset({name}))) == [
        (f'additional_claims["{name}"]', "is reserved: keyturn sets it")
    ]


def test_the_claims_that_keyturn_sets_are_the_reserved_ones() -> None:
    rules = TokenRules(default_lifetime=MINUTE, audience="omnichannel")
    claims = compose(request(context={"cart": 1}), rules, terms())

    assert payload(claims).keys() == RESERVED_CLAIMS
    assert len(RESERVED_CLAIMS) == 8


@pytest.mark.parametrize("name", ["role", "Tier", "", "tier "])
def test_a_claim_that_the_caller_may_not_set_is_refused(name: str) -> None:
    asked = request(additional_claims={name: "x"})

    assert violations(asked, agreed=terms(allowed=frozenset({"tier"}))) == [
        (f'additional_claims["{name}"]', "is not among the additional claims that this caller may set")
    ]


TIER = terms(allowed=frozenset({"tier"}))


@pytest.mark.parametrize(
    ("value", "path", "description"),
    [
        (nested(5), "[0][0][0][0]", "nests deeper than 4 levels"),
        ({"a": {"b": {"c": {"d": {}}}}}, '["a"]["b"]["c"]["d"]', "nests deeper than 4 levels"),
        ({"a": [math.nan]}, '["a"][0]', "is not a finite number"),
        (math.inf, "", "is not a finite number"),
        (2**53, "", "is an integer beyond -(2^53-1) to 2^53-1, the range that JavaScript reads exactly"),
        (["\ud800"], "[0]", "is not valid Unicode"),
        ({"\ud800": 1}, '["\\ud800"]', "the name is not valid Unicode"),
    ],
    ids=["lists", "objects", "NaN", "infinity", "large", "lone surrogate", "lone surrogate in a name"],
)
def test_an_additional_claim_is_json_that_everybody_reads(value: Any, path: str, description: str) -> None:
    assert violations(request(additional_claims={"tier": value}), agreed=TIER) == [
        (f'additional_claims["tier"]{path}', description)
    ]


def test_claims_of_any_depth_are_refused_and_not_descended_into() -> None:
    value: Any = "deep inside"
    for _ in range(100_000):
        value = [value]

    assert violations(request(additional_claims={"tier": value}), agreed=TIER) == [
        ('additional_claims["tier"][0][0][0][0]', "nests deeper than 4 levels")
    ]


def test_what_is_just_within_the_limits_is_signed() -> None:
    asked = request(
        subject="🗝" * (MAX_SUBJECT_LENGTH // 2) + "x",
        context={
            "x" * MAX_NAME_LENGTH: "🗝" * (MAX_VALUE_LENGTH // 2),
            "most": MAX_EXACT_INTEGER,
            "least": -MAX_EXACT_INTEGER,
        },
        additional_claims={"tier": nested(MAX_CLAIM_DEPTH)},
        lifetime=HOUR,
    )

    claims = compose(asked, ANY_VARIABLES, TIER)

    assert payload(claims)["sub"] == asked.subject
    assert context(claims) == asked.context
    assert payload(claims)["tier"] == asked.additional_claims["tier"]


def test_every_violation_of_a_request_is_named_at_once() -> None:
    asked = request(
        subject="",
        context={"msdyn_cartvalue": True, "msdyn_isvip": None, "cart": "x"},
        lifetime=timedelta(0),
        additional_claims={"iss": "x", "role": "x", "tier": {"a": math.nan, "b": [[math.inf]]}},
    )

    assert [field for field, _ in violations(asked, DECLARED, TIER)] == [
        "subject",
        'context["msdyn_cartvalue"]',
        'context["msdyn_isvip"]',
        'context["cart"]',
        "lifetime",
        'additional_claims["iss"]',
        'additional_claims["role"]',
        'additional_claims["tier"]["a"]',
        'additional_claims["tier"]["b"][0][0]',
    ]


def test_a_name_cannot_pass_for_another_path() -> None:
    assert violations(request(context={'a"]["b': None}))[0][0] == r'context["a\"][\"b"]'


@pytest.mark.parametrize(
    "asked",
    [
        request(subject="secret" * 100),
        request(context={"msdyn_cartvalue": "secret"}),
        request(context={"msdyn_isvip": "secret" * 1000}),
        request(context={"msdyn_isvip": "secret\ud800"}),
        request(additional_claims={"tier": ["secret\ud800"]}),
    ],
)
def test_a_refusal_never_repeats_a_value(asked: TokenRequest) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        compose(asked, DECLARED, TIER)

    assert "secret" not in refused.value.message


def test_a_token_fits_into_a_header() -> None:
    check_size("x" * MAX_TOKEN_BYTES)

    with pytest.raises(InvalidRequestError) as refused:
        check_size("x" * (MAX_TOKEN_BYTES + 1))

    assert [(each.field, each.description) for each in refused.value.violations] == [
        ("context", "the token would have 8193 bytes; at most 8192 fit into a header")
    ]


# Any request


def texts(least: int, most: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=least, max_size=most)


NUMBERS = st.integers(-MAX_EXACT_INTEGER, MAX_EXACT_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | texts(0, 10)
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES | st.dictionaries(texts(0, 5), LEAVES, max_size=2), max_size=3),
    st.dictionaries(texts(0, 5), LEAVES | st.lists(LEAVES, max_size=2), max_size=3),
)


@given(
    subject=texts(1, MAX_SUBJECT_LENGTH // 2),
    context_asked=st.dictionaries(
        texts(1, MAX_NAME_LENGTH // 2), st.booleans() | NUMBERS | texts(0, 50), min_size=1, max_size=5
    ),
    claims_asked=st.dictionaries(texts(1, 10).filter(lambda name: name not in RESERVED_CLAIMS), VALUES, max_size=3),
)
def test_whatever_is_accepted_is_what_is_signed(
    subject: str, context_asked: dict[str, Any], claims_asked: dict[str, Any]
) -> None:
    asked = request(subject=subject, context=context_asked, additional_claims=claims_asked)

    claims = compose(asked, ANY_VARIABLES, terms(allowed=frozenset(claims_asked)))

    assert claims.payload.isascii()
    assert context(claims) == context_asked
    assert payload(claims) == claims_asked | {
        "iss": "https://contoso.example",
        "sub": subject,
        "iat": 1772366340,
        "nbf": 1772366340,
        "exp": 1772367300,
        "jti": "0123456789abcdef",
        "lwicontexts": payload(claims)["lwicontexts"],
    }


HOSTILE_TEXTS = st.text(max_size=300) | st.sampled_from(["\ud800", "\udfff\ud800", "iss", "msdyn_IsVip", "msdyn_isvip"])
HOSTILE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE_TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(
    subject=HOSTILE_TEXTS,
    context_asked=st.dictionaries(
        HOSTILE_TEXTS, st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE_TEXTS, max_size=4
    ),
    lifetime=st.none() | st.timedeltas(),
    claims_asked=st.dictionaries(HOSTILE_TEXTS, HOSTILE, max_size=3),
)
def test_whatever_is_asked_is_signed_as_strict_ascii_json_or_refused_by_field(
    subject: str, context_asked: dict[str, Any], lifetime: timedelta | None, claims_asked: dict[str, Any]
) -> None:
    asked = request(subject=subject, context=context_asked, lifetime=lifetime, additional_claims=claims_asked)
    signed, refused = b"", []
    try:
        signed = compose(asked, DECLARED, terms(allowed=frozenset(claims_asked))).payload
    except InvalidRequestError as error:
        refused = [violation.field for violation in error.violations]

    assert bool(signed) != bool(refused)
    assert all(field.isascii() for field in refused)
    assert signed.isascii()
    assert not signed or json.loads(signed, parse_constant=pytest.fail)
