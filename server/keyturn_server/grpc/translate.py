"""The one place that turns messages into domain values and back."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2

from keyturn.v1 import keys_pb2, signing_pb2
from keyturn_server.domain.claims import ContextValue, SignedToken, TokenRequest
from keyturn_server.domain.errors import FieldViolation, InvalidRequestError, PolicyError
from keyturn_server.domain.plans import Plan
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.ring import Key, KeyState, Ring, deactivates_at, published_until, signer, state

_TIMES = [field.name for field in fields(Policy) if field.name != "key_size"]

_STATES = {
    KeyState.PRE_ACTIVE: keys_pb2.KEY_STATE_PRE_ACTIVE,
    KeyState.ACTIVE: keys_pb2.KEY_STATE_ACTIVE,
    KeyState.DEACTIVATED: keys_pb2.KEY_STATE_DEACTIVATED,
    KeyState.COMPROMISED: keys_pb2.KEY_STATE_COMPROMISED,
    KeyState.DESTROYED: keys_pb2.KEY_STATE_DESTROYED,
}


def token_request(request: signing_pb2.SignTokenRequest) -> TokenRequest:
    """What the caller asks for. Raises `InvalidRequestError` for what the wire can say and the domain cannot."""
    return TokenRequest(
        issuer=request.issuer,
        subject=request.subject,
        context={name: _context_value(value) for name, value in request.context.items()},
        lifetime=_timedelta("lifetime", request.lifetime) if request.HasField("lifetime") else None,
        additional_claims=_claims(request.additional_claims, "additional_claims"),
    )


def sign_token_response(signed: SignedToken) -> signing_pb2.SignTokenResponse:
    return signing_pb2.SignTokenResponse(
        token=signed.token,
        key_id=signed.key_id,
        token_id=signed.token_id,
        issue_time=timestamp_pb2.Timestamp(seconds=signed.issued_at),
        expire_time=timestamp_pb2.Timestamp(seconds=signed.expires_at),
    )


def issuer(ring: Ring, now: datetime) -> keys_pb2.Issuer:
    current = signer(ring, now)
    return keys_pb2.Issuer(
        id=ring.issuer,
        iss=ring.iss,
        ring_version=ring.version,
        policy=policy_message(ring.policy),
        signer_key_id="" if current is None else current.kid,
        retire_time=_timestamp(ring.retired_at),
    )


def key_ring(ring: Ring, now: datetime) -> keys_pb2.KeyRing:
    keys = [_key(ring, key, now) for key in ring.keys]
    return keys_pb2.KeyRing(
        issuer=ring.issuer,
        version=ring.version,
        as_of=_timestamp(now),
        keys=keys,
        retire_time=_timestamp(ring.retired_at),
    )


def plan(value: Plan) -> keys_pb2.Plan:
    return keys_pb2.Plan(
        ring_version=value.planned_on,
        steps=[
            keys_pb2.PlanStep(key_id=step.kid, time=_timestamp(step.time), description=step.description)
            for step in value.steps
        ],
        earliest_safe_time=_timestamp(value.earliest_safe_time),
        failures_until=_timestamp(value.failures_until),
        failures=value.failures,
        keys=[
            keys_pb2.PlannedKey(
                key_id=key.kid,
                state_before=keys_pb2.KEY_STATE_UNSPECIFIED if key.before is None else _STATES[key.before],
                state_after=_STATES[key.after],
                tokens_until=_timestamp(key.tokens_until),
            )
            for key in value.outlook()
        ],
    )


def policy(message: keys_pb2.Policy) -> Policy:
    """A policy from the wire. Raises `InvalidRequestError` that names the setting which breaks a rule."""
    try:
        times = {name: _timedelta(f"policy.{name}", getattr(message, name)) for name in _TIMES}
        return Policy(**times, key_size=message.key_size)
    except PolicyError as error:
        raise InvalidRequestError([FieldViolation(f"policy.{error.setting}", error.message)]) from None


def policy_message(value: Policy) -> keys_pb2.Policy:
    return keys_pb2.Policy(**{name: _duration(getattr(value, name)) for name in _TIMES}, key_size=value.key_size)


def _key(ring: Ring, key: Key, now: datetime) -> keys_pb2.Key:
    return keys_pb2.Key(
        key_id=key.kid,
        state=_STATES[state(ring, key, now)],
        create_time=_timestamp(key.created_at),
        publish_time=_timestamp(key.published_at),
        activate_time=_timestamp(key.activates_at),
        deactivate_time=_timestamp(deactivates_at(ring, key)),
        unpublish_time=_timestamp(published_until(ring, key)),
        revoke_time=_timestamp(key.revoked_at),
        destroy_time=_timestamp(key.destroyed_at),
        forced=key.forced,
        reason=key.reason,
    )


def _context_value(value: signing_pb2.ContextValue) -> ContextValue:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return value.number_value
        case "integer_value":
            return value.integer_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _timedelta(path: str, duration: duration_pb2.Duration) -> timedelta:
    try:
        return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)
    except OverflowError:
        raise InvalidRequestError([FieldViolation(path, "is not a duration that can be told")]) from None


def _claims(struct: struct_pb2.Struct, path: str) -> dict[str, Any]:
    return {name: _claim(value, f'{path}["{name[:100]}"]') for name, value in struct.fields.items()}


def _claim(value: struct_pb2.Value, path: str) -> Any:
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _claims(value.struct_value, path)
        case "list_value":
            return [_claim(member, f"{path}[{at}]") for at, member in enumerate(value.list_value.values)]
        case _:
            raise InvalidRequestError([FieldViolation(path, "has no value")])


def _timestamp(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    if time is None:
        return None
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(time.astimezone(UTC))
    return stamp


def _duration(delta: timedelta) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(delta)
    return duration
