"""What bad requests get, over the wire: each field by name, and nothing signed."""

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, struct_pb2

from keyturn.errors import InvalidRequest, translate
from keyturn.tls import channel_credentials
from keyturn.v1 import signing_pb2, signing_pb2_grpc
from tests.integration.deployment import Deployment

Request = signing_pb2.SignTokenRequest
Value = signing_pb2.ContextValue


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[signing_pb2_grpc.SigningServiceStub]:
    """The bare contract, because the client library refuses much of this before it is sent."""
    deployment = Deployment(
        tmp_path_factory.mktemp("requests") / "keyturn", additional_claims='["tier"]', max_token_lifetime='"1h"'
    )
    deployment.start()
    tls = deployment.tls()
    with grpc.secure_channel(deployment.signing, channel_credentials(tls)) as channel:
        yield signing_pb2_grpc.SigningServiceStub(channel)
    assert deployment.stop() == 0


def context(name: str = "msdyn_isvip", **value: Any) -> Request:
    return Request(subject="a", context={name: Value(**value)})


def claims(**values: Any) -> Request:
    struct = struct_pb2.Struct()
    struct.update(values)
    return Request(subject="a", additional_claims=struct)


def lifetime(seconds: float) -> Request:
    return Request(subject="a", lifetime=duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 10**9)))


NESTED: dict[str, Any] = {"a": {"b": {"c": {"d": {"e": 1}}}}}

BAD = {
    "empty subject": (Request(), "subject", "1 to 255"),
    "long subject": (Request(subject="a" * 256), "subject", "1 to 255"),
    "101 variables": (
        Request(subject="a", context={f"v{n}": Value(string_value="") for n in range(101)}),
        "context",
        "at most 100",
    ),
    "empty name": (context("", string_value="a"), 'context[""]', "1 to 100"),
    "long name": (context("n" * 101, string_value="a"), "context[", "1 to 100"),
    "undeclared name": (context("other", string_value="a"), 'context["other"]', "declares"),
    "name in another case": (
        context("msdyn_IsVip", string_value="a"),
        'context["msdyn_IsVip"]',
        "did you mean msdyn_isvip?",
    ),
    "no kind": (context(), 'context["msdyn_isvip"]', "no value"),
    "long value": (context(string_value="a" * 4001), 'context["msdyn_isvip"]', "at most 4000"),
    "number for text": (context(integer_value=1), 'context["msdyn_isvip"]', "declared as text"),
    "word for number": (context("msdyn_cartvalue", string_value="ten"), 'context["msdyn_cartvalue"]', "decimal"),
    "boolean for number": (
        context("msdyn_cartvalue", bool_value=True),
        'context["msdyn_cartvalue"]',
        "declared as a number",
    ),
    "not a number": (context("msdyn_cartvalue", number_value=math.nan), 'context["msdyn_cartvalue"]', "finite"),
    "infinite": (context("msdyn_cartvalue", number_value=-math.inf), 'context["msdyn_cartvalue"]', "finite"),
    "integer too large": (context("msdyn_cartvalue", integer_value=2**53), 'context["msdyn_cartvalue"]', "2^53-1"),
    "integer too small": (context("msdyn_cartvalue", integer_value=-(2**53)), 'context["msdyn_cartvalue"]', "2^53-1"),
    "no lifetime": (lifetime(0), "lifetime", "1 to 3600"),
    "negative lifetime": (lifetime(-60), "lifetime", "1 to 3600"),
    "long lifetime": (lifetime(3601), "lifetime", "1 to 3600"),
    "endless lifetime": (lifetime(2**62), "lifetime", "duration"),
    "claim not allowed": (claims(colour="red"), 'additional_claims["colour"]', "not among"),
    **{
        f"reserved claim {name}": (claims(**{name: "a"}), f'additional_claims["{name}"]', "reserved")
        for name in ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "lwicontexts")
    },
    "deep claim": (claims(tier=NESTED), 'additional_claims["tier"]', "nests deeper"),
    "infinite claim": (claims(tier=math.inf), 'additional_claims["tier"]', "finite"),
    "claim without a kind": (
        Request(subject="a", additional_claims=struct_pb2.Struct(fields={"tier": struct_pb2.Value()})),
        'additional_claims["tier"]',
        "no value",
    ),
    "token over 8 KiB": (claims(tier="a" * 7000), "context", "8192"),
}


@pytest.mark.parametrize(("request_", "field", "limit"), BAD.values(), ids=BAD.keys())
def test_a_bad_field_is_named_with_its_limit(
    stub: signing_pb2_grpc.SigningServiceStub, request_: Request, field: str, limit: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.SignToken(request_, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = translate(refused.value, "keyturn")
    assert isinstance(error, InvalidRequest)
    assert [violation for violation in error.violations if field in violation.field and limit in violation.description]


def test_every_bad_field_of_a_request_is_named_at_once(stub: signing_pb2_grpc.SigningServiceStub) -> None:
    bad = lifetime(0)
    bad.subject = ""
    bad.context["other"].string_value = "a"
    with pytest.raises(grpc.RpcError) as refused:
        stub.SignToken(bad, timeout=10)
    error = translate(refused.value, "keyturn")
    assert isinstance(error, InvalidRequest)
    assert {violation.field for violation in error.violations} == {"subject", "lifetime", 'context["other"]'}


def test_a_message_beyond_the_limit_is_refused_and_the_service_goes_on(
    stub: signing_pb2_grpc.SigningServiceStub,
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.SignToken(Request(subject="a" * 70_000), timeout=10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.SignToken(Request(subject="a"), timeout=10).token


def test_what_is_just_within_the_limits_is_signed(stub: signing_pb2_grpc.SigningServiceStub) -> None:
    fine = lifetime(3600)
    fine.subject = "a" * 255
    fine.context["msdyn_cartvalue"].integer_value = 2**53 - 1
    fine.context["msdyn_isvip"].string_value = "a" * 4000
    fine.additional_claims.update({"tier": {"a": {"b": {"c": [1]}}}})
    assert stub.SignToken(fine, timeout=10).token
