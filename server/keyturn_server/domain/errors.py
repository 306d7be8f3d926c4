"""The one family of errors. Edges translate it, once, into gRPC statuses, HTTP statuses and exit codes.

A message says what is wrong and what to do next, and never holds a secret, a token or a claim's value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


class KeyturnError(Exception):
    """Base of the family. `reason` is stable and for programs, the message is for people."""

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that breaks a rule: its path, such as `context["msdyn_cartvalue"]`, and the rule."""

    field: str
    description: str


class InvalidRequestError(KeyturnError):
    """The request breaks rules; every violation found is named. Nothing was done."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations), reason="INVALID_REQUEST")


class NotAuthenticatedError(KeyturnError):
    """The peer is not a configured caller."""


class NotPermittedError(KeyturnError):
    """The caller is known and may not do this."""


class NotFoundError(KeyturnError):
    """What the request names does not exist."""


class RefusedError(KeyturnError):
    """The change would be unsafe or senseless now. `earliest_safe_time` is when it need not be forced."""

    def __init__(self, message: str, *, reason: str, earliest_safe_time: datetime | None = None) -> None:
        metadata = {} if earliest_safe_time is None else {"earliest_safe_time": earliest_safe_time.isoformat()}
        super().__init__(message, reason=reason, metadata=metadata)
        self.earliest_safe_time = earliest_safe_time


class RingChangedError(KeyturnError):
    """Another change of the ring came first; this one did nothing."""

    def __init__(self, issuer: str, expected: int) -> None:
        super().__init__(
            f"the ring of issuer {issuer} is no longer at version {expected}: look at it again, and repeat what is "
            "still wanted",
            reason="RING_CHANGED",
            metadata={"issuer": issuer, "expected_ring_version": str(expected)},
        )


class UnavailableError(KeyturnError):
    """It cannot be done now; trying again after `retry_after` may help."""

    def __init__(self, message: str, *, reason: str, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class RowRefusedError(KeyturnError):
    """A row of the store is not what keyturn wrote. `row` names it, such as `ring_versions (contoso, 7)`."""

    def __init__(self, row: str, why: str) -> None:
        super().__init__(f"{row} was refused: {why}", reason="ROW_REFUSED", metadata={"row": row})
        self.row = row


class PolicyError(KeyturnError):
    """A policy whose times contradict each other; `setting` is the one to change."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message, reason="POLICY_REFUSED", metadata={"setting": setting})
        self.setting = setting


class ConfigurationError(KeyturnError):
    """keyturn cannot start like this. The message names the setting or the file, never a secret."""
