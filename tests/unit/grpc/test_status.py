import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from structlog.testing import capture_logs

from keyturn.v1 import signing_pb2, signing_pb2_grpc
from keyturn_server.domain.errors import (
    ConfigurationError,
    FieldViolation,
    InvalidRequestError,
    KeyturnError,
    NotAuthenticatedError,
    NotFoundError,
    NotPermittedError,
    PolicyError,
    RefusedError,
    RingChangedError,
    RowRefusedError,
    UnavailableError,
)
from keyturn_server.grpc.status import Context, answers_with_status, to_status
from tests.rings import NOW, SECOND

D = TypeVar("D", bound=Message)


@dataclasses.dataclass(frozen=True)
class Row:
    """What becomes of an error."""

    error: KeyturnError
    code: grpc.StatusCode
    reason: str
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


ROWS = [
    Row(
        InvalidRequestError([FieldViolation("subject", "is too long")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    ),
    Row(NotAuthenticatedError("who?", reason="NO_IDENTITY"), grpc.StatusCode.UNAUTHENTICATED, "NO_IDENTITY"),
    Row(
        NotPermittedError("not yours", reason="ISSUER_NOT_PERMITTED"),
        grpc.StatusCode.PERMISSION_DENIED,
        "ISSUER_NOT_PERMITTED",
    ),
    Row(NotFoundError("no such key", reason="NO_SUCH_KEY"), grpc.StatusCode.NOT_FOUND, "NO_SUCH_KEY"),
    Row(
        RefusedError("too early", reason="STANDBY_TOO_YOUNG", earliest_safe_time=NOW),
        grpc.StatusCode.FAILED_PRECONDITION,
        "STANDBY_TOO_YOUNG",
        {"earliest_safe_time": "2026-03-01T12:00:00+00:00"},
    ),
    Row(
        RingChangedError("contoso", 7),
        grpc.StatusCode.ABORTED,
        "RING_CHANGED",
        {"issuer": "contoso", "expected_ring_version": "7"},
    ),
    Row(UnavailableError("not now", reason="NO_SIGNER"), grpc.StatusCode.UNAVAILABLE, "NO_SIGNER"),
    Row(
        RowRefusedError("ring_versions (contoso, 7)", "it was edited"),
        grpc.StatusCode.DATA_LOSS,
        "ROW_REFUSED",
        {"row": "ring_versions (contoso, 7)"},
    ),
    Row(
        PolicyError("rotation_period", "is too short"),
        grpc.StatusCode.INTERNAL,
        "POLICY_REFUSED",
        {"setting": "rotation_period"},
    ),
    Row(ConfigurationError("signing.listen: cannot listen"), grpc.StatusCode.INTERNAL, ""),
]
ALL_ROWS = pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row.error).__name__)


def family(of: type[KeyturnError] = KeyturnError) -> Iterator[type[KeyturnError]]:
    """All errors that the domain knows."""
    for each in of.__subclasses__():
        if each.__module__ == KeyturnError.__module__:
            yield each
        yield from family(each)


def detail(status: status_pb2.Status, kind: type[D]) -> D | None:
    """The one detail of this kind, if there is one."""
    unpacked = kind()
    found = [packed for packed in status.details if packed.Unpack(unpacked)]
    assert len(found) <= 1
    return unpacked if found else None


def violations(status: status_pb2.Status) -> list[tuple[str, str]]:
    bad_request = detail(status, error_details_pb2.BadRequest)
    assert bad_request is not None
    return [(violation.field, violation.description) for violation in bad_request.field_violations]


# An error as a status


def test_every_error_of_the_family_has_a_row_here() -> None:
    assert set(family()) == {type(row.error) for row in ROWS}


@ALL_ROWS
def test_an_error_has_its_code_and_its_message(row: Row) -> None:
    status = to_status(row.error)

    assert status.code == row.code.value[0]
    assert status.message == row.error.message


@ALL_ROWS
def test_every_error_tells_programs_its_reason_and_facts(row: Row) -> None:
    info = detail(to_status(row.error), error_details_pb2.ErrorInfo)

    assert info is not None
    assert (info.domain, info.reason, dict(info.metadata)) == ("keyturn", row.reason, row.metadata)


@ALL_ROWS
def test_only_a_request_that_breaks_rules_has_violations(row: Row) -> None:
    bad_request = detail(to_status(row.error), error_details_pb2.BadRequest)

    assert (bad_request is not None) == isinstance(row.error, InvalidRequestError)


@ALL_ROWS
def test_only_what_can_be_tried_again_says_when(row: Row) -> None:
    retry = detail(to_status(row.error), error_details_pb2.RetryInfo)

    assert (retry is not None) == isinstance(row.error, UnavailableError)


def test_every_violation_is_told_with_its_path() -> None:
    error = InvalidRequestError(
        [FieldViolation('context["msdyn_cartvalue"]', "is not a finite number"), FieldViolation("subject", "is empty")]
    )

    assert violations(to_status(error)) == [
        ('context["msdyn_cartvalue"]', "is not a finite number"),
        ("subject", "is empty"),
    ]


@pytest.mark.parametrize("retry_after", [SECOND, 5 * SECOND, timedelta(milliseconds=250)])
def test_an_unavailable_service_says_how_long_to_wait(retry_after: timedelta) -> None:
    error = UnavailableError("not now", reason="NO_SIGNER", retry_after=retry_after)

    retry = detail(to_status(error), error_details_pb2.RetryInfo)

    assert retry is not None
    assert retry.retry_delay.ToTimedelta() == retry_after


@pytest.mark.parametrize(("found", "named"), [(19, 19), (20, 20), (21, 20), (100, 20)])
def test_at_most_20_violations_are_named_the_first_ones(found: int, named: int) -> None:
    error = InvalidRequestError([FieldViolation(f"field{number}", "is wrong") for number in range(found)])

    assert violations(to_status(error)) == [(f"field{number}", "is wrong") for number in range(named)]


LARGEST = [
    InvalidRequestError([FieldViolation("context[" + "\\u00e4" * 100 + "]", "is not declared") for _ in range(100)]),
    InvalidRequestError([FieldViolation("additional_claims" + "[xxxxxxxxxxx]" * 1000, "x" * 5000)]),
    InvalidRequestError([FieldViolation("additional_claims" + "[ä]" * 1000, "ä" * 5000) for _ in range(100)]),
    NotFoundError("no key " + "k" * 100_000, reason="NO_SUCH_KEY"),
    NotFoundError("no key " + "💬" * 100_000, reason="NO_SUCH_KEY"),
]


@pytest.mark.parametrize("error", LARGEST, ids=range(len(LARGEST)))
def test_however_much_is_wrong_the_status_is_small_enough_to_travel(error: KeyturnError) -> None:
    status = to_status(error)

    # In base64, beside the message, which is percent-encoded: together less than the 8 KiB that any client accepts.
    assert status.ByteSize() * 4 / 3 + len(status.message.encode()) * 3 < 8000
    assert error.message.startswith(status.message)
    if isinstance(error, InvalidRequestError):
        assert violations(status)


# A handler that raises


class Servicer(signing_pb2_grpc.SigningServiceServicer):
    """Answers every call with `fails`, or else with a token."""

    def __init__(self) -> None:
        self.fails: Exception | None = None

    @answers_with_status
    async def SignToken(  # noqa: N802 - the name in the contract
        self, request: signing_pb2.SignTokenRequest, context: Context
    ) -> signing_pb2.SignTokenResponse:
        if self.fails:
            raise self.fails
        return signing_pb2.SignTokenResponse(token="a.b.c")


Call = Callable[[Exception | None], Any]


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Call]:
    """A real server on a Unix socket, and a client with the settings that any client has."""
    servicer = Servicer()
    server = grpc.aio.server()
    signing_pb2_grpc.add_SigningServiceServicer_to_server(servicer, server)
    address = f"unix:{folder / 'socket'}"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = signing_pb2_grpc.SigningServiceStub(channel)

            async def call(fails: Exception | None) -> signing_pb2.SignTokenResponse:
                servicer.fails = fails
                response: signing_pb2.SignTokenResponse = await stub.SignToken(signing_pb2.SignTokenRequest())
                return response

            yield call
    finally:
        await server.stop(grace=1)


async def refusal(call: Call, fails: Exception) -> status_pb2.Status:
    """The status that a client sees."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(fails)
    status: status_pb2.Status | None = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    assert status is not None, refused.value
    assert refused.value.code().value[0] == status.code
    assert refused.value.details() == status.message
    return status


async def test_a_handler_that_succeeds_answers_as_it_is(tmp_path: Path) -> None:
    async with served(tmp_path) as call:
        assert (await call(None)).token == "a.b.c"


async def test_a_client_gets_the_status_of_every_error_with_all_its_details(tmp_path: Path) -> None:
    async with served(tmp_path) as call:
        for row in ROWS:
            assert await refusal(call, row.error) == to_status(row.error)


async def test_a_foreseen_error_is_one_line_in_the_log_without_a_traceback(tmp_path: Path) -> None:
    async with served(tmp_path) as call:
        with capture_logs() as logs:
            await refusal(call, RefusedError("too early", reason="STANDBY_TOO_YOUNG"))

    (log,) = logs
    assert (log["log_level"], log["rpc"], log["reason"], log["why"]) == (
        "info",
        "SignToken",
        "STANDBY_TOO_YOUNG",
        "too early",
    )
    assert "exc_info" not in log


async def test_however_much_is_wrong_a_client_hears_of_that_and_not_of_a_limit(tmp_path: Path) -> None:
    async with served(tmp_path) as call:
        for error in LARGEST:
            assert await refusal(call, error) == to_status(error)


async def test_a_bug_tells_the_client_an_incident_and_the_log_everything(tmp_path: Path) -> None:
    bug = KeyError("a secret")
    async with served(tmp_path) as call:
        with capture_logs() as logs:
            statuses = [await refusal(call, bug) for _ in range(2)]

    for status, log in zip(statuses, logs, strict=True):
        assert status.code == grpc.StatusCode.INTERNAL.value[0]
        assert status.message == f"an error in keyturn: its log has more under incident {log['incident']}"
        assert list(status.details) == []
        assert "secret" not in str(status)
        assert (log["log_level"], log["rpc"], log["exc_info"]) == ("error", "SignToken", True)
    assert logs[0]["incident"] != logs[1]["incident"]
