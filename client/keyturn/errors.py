"""The errors of the client: what a frontend can tell apart and act on.

Mistakes in the arguments that need no service to be seen are `TypeError` and `ValueError`, raised before a byte
is sent. All that the service or the network answers is a `KeyturnError`, raised from the `grpc.RpcError` behind
it. What the client itself writes into a message is names of fields and files, never a token, a subject or a value
of the context.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_status import rpc_status


class KeyturnError(Exception):
    """A call that failed, for whatever reason; the subclasses name those that callers treat differently."""

    message: str
    """What happened, for people. Its wording may change: compare `reason` and `code` instead."""

    code: StatusCode
    """The gRPC status of the answer."""

    reason: str
    """The stable reason that the service gave, such as `ISSUER_NOT_ALLOWED`; empty when it gave none."""

    def __init__(self, message: str, code: StatusCode, reason: str = "") -> None:
        super().__init__(message, code, reason)
        self.message = message
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One rule that the request breaks."""

    field: str
    """The path of the field in the request, for example `context["msdyn_cartvalue"]`."""

    description: str
    """The rule, with its limit."""


class InvalidRequest(KeyturnError):  # noqa: N818 - reads as what happened, and its base says that it is an error
    """The request breaks rules of the service; sent again, it fails again."""

    violations: tuple[FieldViolation, ...]
    """The rules that it breaks; empty when the service named no field."""

    def __init__(
        self, message: str, code: StatusCode, reason: str = "", violations: tuple[FieldViolation, ...] = ()
    ) -> None:
        super().__init__(message, code, reason)
        self.violations = violations

    def __str__(self) -> str:
        if all(violation.description in self.message for violation in self.violations):
            return self.message
        listed = "; ".join(f"{violation.field}: {violation.description}" for violation in self.violations)
        return f"{self.message} ({listed})"


class NotAuthenticated(KeyturnError):  # noqa: N818 - as InvalidRequest
    """The client certificate is not that of a caller whom the service knows."""


class NotPermitted(KeyturnError):  # noqa: N818 - as InvalidRequest
    """The service knows the caller, but does not allow it this: the issuer is unknown or another's."""


class Unavailable(KeyturnError):  # noqa: N818 - as InvalidRequest
    """The service cannot be reached, cannot sign now, or has too much to do; a later call may succeed."""

    retry_after: timedelta | None
    """How long to wait before the next call; None when the service did not say."""

    def __init__(self, message: str, code: StatusCode, reason: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message, code, reason)
        self.retry_after = retry_after


class DeadlineExceeded(KeyturnError):  # noqa: N818 - as InvalidRequest
    """No answer came within the call's timeout. Signing stores nothing, so the call may simply be repeated."""


def translate(error: grpc.RpcError, target: str) -> KeyturnError:
    """What a failed call to `target` is in this family; to be raised from `error`."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))
        for detail in status.details if status else ():
            for message in (info, bad_request, retry):
                detail.Unpack(message)
    except (ValueError, DecodeError):
        # Details that something between service and client garbled must not hide the status itself.
        status = None

    code, reason = error.code(), info.reason
    text = error.details() or code.name
    match code:
        case StatusCode.INVALID_ARGUMENT:
            violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
            return InvalidRequest(text, code, reason, violations)
        case StatusCode.UNAUTHENTICATED:
            return NotAuthenticated(text, code, reason)
        case StatusCode.PERMISSION_DENIED:
            return NotPermitted(text, code, reason)
        case StatusCode.UNAVAILABLE | StatusCode.RESOURCE_EXHAUSTED:
            if code is StatusCode.UNAVAILABLE and status is None:
                text = _unreachable(target, text)
            retry_after = retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None
            return Unavailable(text, code, reason, retry_after)
        case StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(text, code, reason)
        case _:
            return KeyturnError(text, code, reason)


def _unreachable(target: str, details: str) -> str:
    # The service explains its own refusals with details; without them it was the transport that failed. gRPC then
    # quotes its TLS library, or says "Socket closed" when the service broke the handshake off.
    return (
        f"cannot reach {target}: check that the target is right and the service runs, that TLS.ca holds the"
        " authority of the service's certificate, that this certificate names the target's host (or server_name),"
        f" and that the service accepts TLS.certificate. gRPC says: {details}"
    )
