"""The one place where an error becomes a gRPC status (google.rpc.Status with its standard details)."""

import functools
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import grpc.aio
import structlog
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from keyturn_server.domain.errors import (
    InvalidRequestError,
    KeyturnError,
    NotAuthenticatedError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
    RingChangedError,
    RowRefusedError,
    UnavailableError,
)

log = structlog.get_logger(__name__)

DOMAIN = "keyturn"

MOST_VIOLATIONS = 20
"""How many violations an answer names. All of it travels in metadata, of which clients accept 8 KiB; what is beyond
that they would see as RESOURCE_EXHAUSTED. Hence the following limits, too.
"""

MOST_VIOLATION_BYTES = 2500
"""For all violations together."""

MOST_TEXT_BYTES = 400
"""For the path and for the description of one violation."""

MOST_MESSAGE_BYTES = 1000
"""For the message, which travels twice."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Request, Context], Awaitable[Answer]]

CODES: dict[type[KeyturnError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotAuthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    NotPermittedError: grpc.StatusCode.PERMISSION_DENIED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    RefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    RingChangedError: grpc.StatusCode.ABORTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    RowRefusedError: grpc.StatusCode.DATA_LOSS,
}


def to_status(error: KeyturnError) -> status_pb2.Status:
    """The status of an error. One of a kind that no caller can do anything about is INTERNAL."""
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if isinstance(error, InvalidRequestError):
        details.append(error_details_pb2.BadRequest(field_violations=_violations(error)))
    if isinstance(error, UnavailableError):
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=code.value[0],
        message=_cut(error.message, MOST_MESSAGE_BYTES),
        details=[_packed(detail) for detail in details],
    )


def answers_with_status(handler: Handler[Request, Answer]) -> Handler[Request, Answer]:
    """Makes an RPC's handler answer with a status where it raises.

    A foreseen error is one log line. Anything else is a bug: the caller gets an incident id, the log gets the
    traceback.
    """

    @functools.wraps(handler)
    async def answer(servicer: Any, request: Request, context: Context) -> Answer:
        rpc = handler.__name__
        try:
            return await handler(servicer, request, context)
        except KeyturnError as error:
            status = to_status(error)
            log.info("refused", rpc=rpc, peer=context.peer(), reason=error.reason, why=status.message)
        except Exception:
            incident = uuid.uuid4().hex
            log.exception("failed", rpc=rpc, peer=context.peer(), incident=incident)
            status = status_pb2.Status(
                code=grpc.StatusCode.INTERNAL.value[0],
                message=f"an error in keyturn: its log has more under incident {incident}",
            )
        return await context.abort_with_status(rpc_status.to_status(status))

    return answer


def _violations(error: InvalidRequestError) -> Iterator[error_details_pb2.BadRequest.FieldViolation]:
    """The first violations, as many as an answer has room for."""
    left = MOST_VIOLATION_BYTES
    for violation in error.violations[:MOST_VIOLATIONS]:
        named = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field, MOST_TEXT_BYTES), description=_cut(violation.description, MOST_TEXT_BYTES)
        )
        left -= named.ByteSize()
        if left < 0:
            return
        yield named


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
