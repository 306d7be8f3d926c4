import re

import pytest

from keyturn_server.domain.callers import Caller, Callers
from keyturn_server.domain.errors import InvalidRequestError, NotAuthenticatedError, NotPermittedError

SHOP = Caller(identity="spiffe://contoso.example/shop", issuers=frozenset({"contoso"}))
BANK = Caller(identity="bank.contoso.example", issuers=frozenset({"contoso", "bank"}))
NOBODY = Caller(identity="nobody.contoso.example", issuers=frozenset())

CALLERS = Callers([SHOP, BANK, NOBODY])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["spiffe://contoso.example/shop"], SHOP),
        (["bank.contoso.example"], BANK),
        (["pod-7.cluster.local", "bank.contoso.example", "10-0-0-7.cluster.local"], BANK),
        (["bank.contoso.example", "bank.contoso.example"], BANK),
    ],
    ids=["URI", "DNS name", "one of several", "one named twice"],
)
def test_a_caller_is_known_by_the_one_configured_name_in_its_certificate(names: list[str], expected: Caller) -> None:
    assert CALLERS.identify(names) is expected


@pytest.mark.parametrize(
    ("names", "reason", "message"),
    [
        ([], "NO_IDENTITY", "no URI or DNS subject alternative name (a common name does not count)"),
        (["mallory.example"], "UNKNOWN_IDENTITY", "'mallory.example' is not a configured caller"),
        (["spiffe://contoso.example/shop/"], "UNKNOWN_IDENTITY", "is not a configured caller"),
        (["spiffe://contoso.example"], "UNKNOWN_IDENTITY", "is not a configured caller"),
        ([""], "UNKNOWN_IDENTITY", "is not a configured caller"),
        (
            ["bank.contoso.example", "spiffe://contoso.example/shop"],
            "SEVERAL_IDENTITIES",
            "stands for several callers ('bank.contoso.example', 'spiffe://contoso.example/shop')",
        ),
    ],
    ids=["none", "unknown", "longer", "shorter", "empty", "two"],
)
def test_a_certificate_that_does_not_stand_for_exactly_one_caller_is_nobodys(
    names: list[str], reason: str, message: str
) -> None:
    with pytest.raises(NotAuthenticatedError, match=re.escape(message)) as refused:
        CALLERS.identify(names)

    assert refused.value.reason == reason


def test_a_hostile_certificate_does_not_fill_the_log() -> None:
    with pytest.raises(NotAuthenticatedError) as refused:
        CALLERS.identify(["x" * 100_000] * 50)

    assert len(refused.value.message) < 2000


def test_a_caller_of_one_issuer_need_not_name_it() -> None:
    assert SHOP.choose_issuer("") == "contoso"
    assert SHOP.choose_issuer("contoso") == "contoso"


def test_a_caller_of_several_issuers_names_one_of_them() -> None:
    assert BANK.choose_issuer("bank") == "bank"
    with pytest.raises(InvalidRequestError) as refused:
        BANK.choose_issuer("")

    assert [violation.field for violation in refused.value.violations] == ["issuer"]


@pytest.mark.parametrize("requested", ["bank", "no-such-issuer", "Contoso", "contoso ", "contos"])
def test_an_issuer_that_does_not_exist_and_one_of_somebody_else_look_the_same(requested: str) -> None:
    with pytest.raises(NotPermittedError) as refused:
        SHOP.choose_issuer(requested)

    assert refused.value.reason == "ISSUER_NOT_PERMITTED"
    assert refused.value.metadata == {}
    assert refused.value.message == (
        f"this caller may not sign for issuer '{requested}': the operator can add it to its [[callers]] entry"
    )


@pytest.mark.parametrize("requested", ["", "contoso"])
def test_a_caller_of_no_issuer_may_sign_for_none(requested: str) -> None:
    with pytest.raises(NotPermittedError) as refused:
        NOBODY.choose_issuer(requested)

    assert refused.value.reason == "ISSUER_NOT_PERMITTED"


def test_a_refusal_repeats_the_beginning_of_a_hostile_issuer_only() -> None:
    with pytest.raises(NotPermittedError) as refused:
        SHOP.choose_issuer("x" * 60_000)

    assert len(refused.value.message) < 300
