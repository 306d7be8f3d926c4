import pickle
from datetime import timedelta

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from keyturn import (
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    KeyturnError,
    NotAuthenticated,
    NotPermitted,
    Unavailable,
)
from keyturn.errors import translate
from tests.unit.client.signing_service import status

INFO = error_details_pb2.ErrorInfo(reason="ISSUER_NOT_ALLOWED", domain="keyturn")


def failed(code: StatusCode, message: str, *details: Message) -> AioRpcError:
    return received(status(code, message, *details))


def received(answer: grpc.Status) -> AioRpcError:
    return AioRpcError(answer.code, Metadata(), Metadata(*answer.trailing_metadata or ()), answer.details)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (StatusCode.UNAUTHENTICATED, NotAuthenticated),
        (StatusCode.PERMISSION_DENIED, NotPermitted),
        (StatusCode.UNAVAILABLE, Unavailable),
        (StatusCode.RESOURCE_EXHAUSTED, Unavailable),
        (StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (StatusCode.CANCELLED, KeyturnError),
        (StatusCode.FAILED_PRECONDITION, KeyturnError),
        (StatusCode.UNIMPLEMENTED, KeyturnError),
        (StatusCode.INTERNAL, KeyturnError),
        (StatusCode.UNKNOWN, KeyturnError),
    ],
)
def test_each_status_has_its_error(code: StatusCode, kind: type[KeyturnError]) -> None:
    error = translate(failed(code, "what happened", INFO), "host:1")

    assert type(error) is kind
    assert (error.code, error.message, error.reason) == (code, "what happened", "ISSUER_NOT_ALLOWED")
    assert str(error) == "what happened"


def test_an_invalid_request_lists_each_rule_that_it_breaks() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="subject", description="must have 1 to 255 characters")
    bad.field_violations.add(field='context["cart"]', description="must be a number")

    error = translate(failed(StatusCode.INVALID_ARGUMENT, "the request breaks 2 rules", INFO, bad), "host:1")

    assert isinstance(error, InvalidRequest)
    assert error.violations == (
        FieldViolation("subject", "must have 1 to 255 characters"),
        FieldViolation('context["cart"]', "must be a number"),
    )
    assert error.message == "the request breaks 2 rules"
    assert str(error) == (
        'the request breaks 2 rules (subject: must have 1 to 255 characters; context["cart"]: must be a number)'
    )


def test_violations_that_the_message_tells_already_are_not_repeated() -> None:
    violation = FieldViolation("subject", "must have 1 to 255 characters")
    error = InvalidRequest("subject: must have 1 to 255 characters", StatusCode.INVALID_ARGUMENT, "", (violation,))

    assert str(error) == "subject: must have 1 to 255 characters"


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED])
def test_an_unavailable_service_says_when_to_come_back(code: StatusCode) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))

    for details, expected in (((INFO, retry), timedelta(seconds=2.5)), ((INFO,), None)):
        error = translate(failed(code, "no usable key", *details), "host:1")

        assert isinstance(error, Unavailable)
        assert error.retry_after == expected
        assert str(error) == "no usable key"


def test_a_service_that_was_not_reached_is_named_with_what_to_check_and_what_grpc_says() -> None:
    error = translate(AioRpcError(StatusCode.UNAVAILABLE, details="Connection refused"), "keyturn.internal:8443")

    assert str(error).startswith("cannot reach keyturn.internal:8443: check that the target is right")
    for part in ("TLS.ca", "TLS.certificate", "server_name"):
        assert part in str(error)
    assert str(error).endswith("gRPC says: Connection refused")


def test_a_status_without_details_keeps_its_code_for_a_message() -> None:
    error = translate(AioRpcError(StatusCode.UNIMPLEMENTED), "host:1")

    assert (str(error), error.reason) == ("UNIMPLEMENTED", "")


@pytest.mark.parametrize(
    "garbled",
    [
        pytest.param(b"\xff", id="no status"),
        pytest.param(
            status_pb2.Status(code=StatusCode.ABORTED.value[0], message="no").SerializeToString(),
            id="a status of another code",
        ),
        pytest.param(
            status_pb2.Status(
                code=StatusCode.PERMISSION_DENIED.value[0],
                message="no",
                details=[Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")],
            ).SerializeToString(),
            id="a detail that is none",
        ),
    ],
)
def test_garbled_details_do_not_hide_the_status(garbled: bytes) -> None:
    metadata = Metadata(("grpc-status-details-bin", garbled))

    error = translate(AioRpcError(StatusCode.PERMISSION_DENIED, Metadata(), metadata, "no"), "host:1")

    assert isinstance(error, NotPermitted)
    assert (error.message, error.reason) == ("no", "")


@pytest.mark.parametrize(
    "error",
    [
        KeyturnError("m", StatusCode.INTERNAL, "R"),
        InvalidRequest("m", StatusCode.INVALID_ARGUMENT, "R", (FieldViolation("subject", "d"),)),
        Unavailable("m", StatusCode.UNAVAILABLE, "R", timedelta(seconds=1)),
    ],
)
def test_an_error_survives_the_way_between_processes(error: KeyturnError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert (vars(copy), str(copy)) == (vars(error), str(error))
