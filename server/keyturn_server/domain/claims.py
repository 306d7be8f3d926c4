"""What a token says: from a request that breaks no rule to the exact bytes of the payload.

The limits of context variables are those of Microsoft's pages "Send authentication token" and "Manage context
variables"; Omnichannel's widget decodes the payload with `atob`, so its bytes are ASCII; the whole token travels in
an HTTP header.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from keyturn_server.domain.errors import FieldViolation, InvalidRequestError

MAX_SUBJECT_LENGTH = 255
MAX_CONTEXT_VARIABLES = 100
MAX_NAME_LENGTH = 100
MAX_VALUE_LENGTH = 4000
MAX_CLAIM_DEPTH = 4
MAX_TOKEN_BYTES = 8192
MAX_EXACT_INTEGER = 2**53 - 1
"""The largest integer that JavaScript reads exactly (RFC 8259, section 6)."""

RESERVED_CLAIMS = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "lwicontexts"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)

ContextValue = str | bool | int | float | None
"""A context variable's value; None stands for a value that was sent without a kind."""


class VariableType(StrEnum):
    """The types that Omnichannel knows for a context variable."""

    TEXT = "text"
    NUMBER = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """What a caller asks for, before any check."""

    subject: str
    issuer: str = ""
    context: Mapping[str, ContextValue] = field(default_factory=dict)
    lifetime: timedelta | None = None
    additional_claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What an issuer's tokens may say."""

    default_lifetime: timedelta
    """What a request without a lifetime gets, where caller and key allow that much."""
    audience: str = ""
    """The claim `aud`. Empty: none."""
    context_variables: Mapping[str, VariableType] = field(default_factory=dict)
    """The context variables that the workstream defines. Empty: any name is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The claims that no caller chooses, and the bounds of those that it does."""

    iss: str
    token_id: str
    now: datetime
    clock_tolerance: timedelta
    max_lifetime: timedelta
    """The least of what caller, issuer and key allow."""
    allowed_claims: AbstractSet[str]


@dataclass(frozen=True, slots=True)
class Claims:
    """A payload, ready to be signed, and its times in seconds since the epoch."""

    payload: bytes = field(repr=False)
    token_id: str
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token and what its caller may want to know of it; times are seconds since the epoch."""

    token: str = field(repr=False)
    key_id: str
    token_id: str
    issued_at: int
    expires_at: int


def compose(request: TokenRequest, rules: TokenRules, terms: Terms) -> Claims:
    """The claims of a token. Raises `InvalidRequestError` that names every field that breaks a rule."""
    lifetime = min(rules.default_lifetime, terms.max_lifetime) if request.lifetime is None else request.lifetime
    violations = [
        *_check_subject(request.subject),
        *_check_context(request.context, rules.context_variables),
        *_check_lifetime(lifetime, terms.max_lifetime),
        *_check_additional(request.additional_claims, terms.allowed_claims),
    ]
    if violations:
        raise InvalidRequestError(violations)
    issued_at = (terms.now - terms.clock_tolerance - _EPOCH) // _SECOND
    expires_at = (terms.now - _EPOCH) // _SECOND + lifetime // _SECOND
    claims: dict[str, Any] = {
        "iss": terms.iss,
        "sub": request.subject,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": expires_at,
        "jti": terms.token_id,
    }
    if rules.audience:
        claims["aud"] = rules.audience
    if request.context:
        claims["lwicontexts"] = _json({name: _emitted(value) for name, value in sorted(request.context.items())})
    claims.update((name, _emitted(value)) for name, value in request.additional_claims.items())
    return Claims(_json(claims).encode("ascii"), terms.token_id, issued_at, expires_at)


def check_size(token: str) -> None:
    """Raises `InvalidRequestError` for a token that does not fit into an HTTP header."""
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidRequestError(
            [
                FieldViolation(
                    "context",
                    f"the token would have {len(token)} bytes; at most {MAX_TOKEN_BYTES} fit into a header",
                )
            ]
        )


def _check_subject(subject: str) -> Iterator[FieldViolation]:
    if not 1 <= _length(subject) <= MAX_SUBJECT_LENGTH:
        yield FieldViolation("subject", f"has {_length(subject)} characters; it must have 1 to {MAX_SUBJECT_LENGTH}")
    if not _is_unicode(subject):
        yield FieldViolation("subject", "is not valid Unicode")


def _check_lifetime(lifetime: timedelta, maximum: timedelta) -> Iterator[FieldViolation]:
    if not _SECOND <= lifetime <= maximum:
        allowed = f"{_SECOND.total_seconds():g} to {maximum.total_seconds():g} seconds are allowed"
        yield FieldViolation("lifetime", f"is {lifetime.total_seconds():g} seconds; {allowed}")


def _check_context(
    context: Mapping[str, ContextValue], declared: Mapping[str, VariableType]
) -> Iterator[FieldViolation]:
    if len(context) > MAX_CONTEXT_VARIABLES:
        yield FieldViolation("context", f"has {len(context)} variables; at most {MAX_CONTEXT_VARIABLES} are allowed")
        return
    for name, value in context.items():
        path = _path("context", name)
        if not 1 <= _length(name) <= MAX_NAME_LENGTH:
            yield FieldViolation(path, f"the name has {_length(name)} characters; it must have 1 to {MAX_NAME_LENGTH}")
        elif not _is_unicode(name):
            yield FieldViolation(path, "the name is not valid Unicode")
        elif declared and name not in declared:
            yield FieldViolation(path, _undeclared(name, declared))
        else:
            yield from _check_value(path, value, declared.get(name))


def _undeclared(name: str, declared: Mapping[str, VariableType]) -> str:
    similar = next((other for other in declared if other.casefold() == name.casefold()), None)
    hint = f"; names are case-sensitive: did you mean {similar}?" if similar else ""
    return f"is not among the context variables that the issuer declares{hint}"


def _check_value(path: str, value: ContextValue, declared: VariableType | None) -> Iterator[FieldViolation]:
    if value is None:
        yield FieldViolation(path, "has no value: one of string, number, integer and bool must be set")
    elif isinstance(value, str):
        if _length(value) > MAX_VALUE_LENGTH:
            yield FieldViolation(path, f"has {_length(value)} characters; at most {MAX_VALUE_LENGTH} are allowed")
        elif not _is_unicode(value):
            yield FieldViolation(path, "is not valid Unicode")
        elif declared is VariableType.NUMBER and not _DECIMAL.fullmatch(value):
            yield FieldViolation(
                path, 'is declared as a number: a number or a decimal string such as "10000" or "-1.5"'
            )
    elif isinstance(value, bool):
        if declared is VariableType.NUMBER:
            yield FieldViolation(path, "is declared as a number, and a boolean was sent")
    elif declared is VariableType.TEXT:
        yield FieldViolation(path, "is declared as text, and a number was sent")
    else:
        yield from _check_number(path, value)


def _check_number(path: str, value: float) -> Iterator[FieldViolation]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield FieldViolation(path, "is not a finite number")
    elif abs(value) > MAX_EXACT_INTEGER:
        yield FieldViolation(path, "is an integer beyond -(2^53-1) to 2^53-1, the range that JavaScript reads exactly")


def _check_additional(claims: Mapping[str, Any], allowed: AbstractSet[str]) -> Iterator[FieldViolation]:
    for name, value in claims.items():
        path = _path("additional_claims", name)
        if name in RESERVED_CLAIMS:
            yield FieldViolation(path, "is reserved: keyturn sets it")
        elif name not in allowed:
            yield FieldViolation(path, "is not among the additional claims that this caller may set")
        else:
            yield from _check_claim(path, value, MAX_CLAIM_DEPTH)


def _check_claim(path: str, value: Any, levels: int) -> Iterator[FieldViolation]:
    if isinstance(value, Mapping | list):
        if levels == 0:
            yield FieldViolation(path, f"nests deeper than {MAX_CLAIM_DEPTH} levels")
            return
        members: Sequence[tuple[Any, Any]] = list(value.items() if isinstance(value, Mapping) else enumerate(value))
        for key, member in members:
            if isinstance(key, str) and not _is_unicode(key):
                yield FieldViolation(_path(path, key), "the name is not valid Unicode")
            yield from _check_claim(_path(path, key), member, levels - 1)
    elif isinstance(value, str):
        if not _is_unicode(value):
            yield FieldViolation(path, "is not valid Unicode")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _check_number(path, value)


def _emitted(value: Any) -> Any:
    """The value as it stands in JSON: the wire knows only doubles, so one that is a whole number is written as such."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER:
        return int(value)
    if isinstance(value, Mapping):
        return {name: _emitted(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_emitted(member) for member in value]
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _path(parent: str, key: str | int) -> str:
    shown = json.dumps(key) if isinstance(key, int) or _length(key) <= MAX_NAME_LENGTH else json.dumps(f"{key[:20]}…")
    return f"{parent}[{shown}]"


def _length(text: str) -> int:
    """Characters as JavaScript and .NET count them: UTF-16 code units."""
    return len(text) + sum(character > "\uffff" for character in text)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
