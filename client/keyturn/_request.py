"""Between Python's values and the messages on the wire.

Refused here is what the wire cannot carry as it is meant: a value of another type, an integer that JavaScript would
round, a number that is none, text that is no Unicode. All other rules are the service's own (`InvalidRequest`).
"""

import json
import math
import re
from collections.abc import ItemsView, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from google.protobuf import struct_pb2

from keyturn.v1 import signing_pb2

ContextValue: TypeAlias = str | bool | int | float
"""What a context variable can be: Omnichannel knows primitives only."""

_MAX_INTEGER = 2**53 - 1
_MAX_NESTING = 16  # far above what the service allows, below the 32 levels that protobuf parses
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A signed token, and what one may want to know of it without decoding it."""

    token: str = field(repr=False)
    """The token itself, for the chat widget. A secret of its customer until it expires: do not log it."""

    key_id: str
    """The `kid` of the key that signed it."""

    token_id: str
    """Its claim `jti`: what to log in place of the token."""

    issued_at: datetime
    """From when it is valid, in UTC. Before now, by the tolerance that the issuer grants to clocks."""

    expires_at: datetime
    """When it expires, in UTC."""


def signed_token(response: signing_pb2.SignTokenResponse) -> SignedToken:
    return SignedToken(
        token=response.token,
        key_id=response.key_id,
        token_id=response.token_id,
        issued_at=response.issue_time.ToDatetime(tzinfo=UTC),
        expires_at=response.expire_time.ToDatetime(tzinfo=UTC),
    )


def sign_token_request(
    *,
    subject: str,
    context: Mapping[str, ContextValue] | None,
    issuer: str,
    lifetime: timedelta | None,
    additional_claims: Mapping[str, object] | None,
) -> signing_pb2.SignTokenRequest:
    """The request that these arguments mean.

    Raises `TypeError` or `ValueError`, which name the argument or the place in it and never quote a value.
    """
    request = signing_pb2.SignTokenRequest(subject=_string("subject", subject), issuer=_string("issuer", issuer))
    if context is not None:
        for name, value in _items("context", context):
            request.context[name].CopyFrom(_context_value(_at("context", name), value))
    if lifetime is not None:
        if not isinstance(lifetime, timedelta):
            raise _wrong_type("lifetime", "timedelta", lifetime)
        request.lifetime.FromTimedelta(lifetime)
    if additional_claims is not None:
        request.additional_claims.CopyFrom(_struct("additional_claims", additional_claims, nesting=0))
    return request


def call_timeout(timeout: object) -> float:
    """`timeout`, if it is a number of seconds that a call can wait."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise _wrong_type("timeout", "a number of seconds", timeout)
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive, finite number of seconds, not {timeout}")
    return timeout


def _context_value(path: str, value: object) -> signing_pb2.ContextValue:
    # bool comes first because it is an int too.
    match value:
        case bool():
            return signing_pb2.ContextValue(bool_value=value)
        case str():
            return signing_pb2.ContextValue(string_value=_string(path, value))
        case int():
            return signing_pb2.ContextValue(integer_value=_integer(path, value))
        case float():
            return signing_pb2.ContextValue(number_value=_finite(path, value))
    raise _wrong_type(path, "str, bool, int or float", value)


def _claim(path: str, claim: object, nesting: int) -> struct_pb2.Value:
    if nesting > _MAX_NESTING:
        raise ValueError(f"{path} is nested more than {_MAX_NESTING} levels deep")
    value = struct_pb2.Value()
    match claim:
        case None:
            value.null_value = struct_pb2.NULL_VALUE
        case bool():
            value.bool_value = claim
        case str():
            value.string_value = _string(path, claim)
        case int():
            value.number_value = _integer(path, claim)
        case float():
            value.number_value = _finite(path, claim)
        case Mapping():
            value.struct_value.CopyFrom(_struct(path, claim, nesting))
        case list() | tuple():
            items = [_claim(f"{path}[{index}]", item, nesting + 1) for index, item in enumerate(claim)]
            value.list_value.CopyFrom(struct_pb2.ListValue(values=items))
        case _:
            raise _wrong_type(path, "what JSON can say (str, bool, int, float, None, list or dict)", claim)
    return value


def _struct(path: str, claims: object, nesting: int) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    for name, claim in _items(path, claims):
        struct.fields[name].CopyFrom(_claim(_at(path, name), claim, nesting + 1))
    return struct


def _items(path: str, mapping: object) -> ItemsView[str, Any]:
    if not isinstance(mapping, Mapping):
        raise _wrong_type(path, "a mapping", mapping)
    for name in mapping:
        if not isinstance(name, str):
            raise _wrong_type(f"a name in {path}", "str", name)
        _string(_at(path, name), name)
    return mapping.items()


def _at(path: str, name: str) -> str:
    return f"{path}[{json.dumps(name)}]"


def _string(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(path, "str", value)
    if _SURROGATE.search(value):
        raise ValueError(f"{path} holds a lone surrogate, which UTF-8 cannot encode")
    return value


def _integer(path: str, value: int) -> int:
    if abs(value) > _MAX_INTEGER:
        raise ValueError(f"{path} must be from -(2^53-1) to 2^53-1, the integers that JavaScript reads exactly")
    return value


def _finite(path: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{path} must be a finite number")
    return value


def _wrong_type(path: str, wanted: str, value: object) -> TypeError:
    return TypeError(f"{path} must be {wanted}, not {type(value).__name__}")
