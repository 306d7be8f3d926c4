"""A change that an operator asks for, as a plan that says what follows from it.

The plan that is shown and the change that is made are the same value, made by the same function: those of `key_plans`
and `issuer_plans`.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from keyturn_server.domain.errors import FieldViolation, InvalidRequestError, RefusedError
from keyturn_server.domain.ring import Change, Key, KeyState, Ring, is_retired, published, published_until, state

MAX_REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one key, for people. An empty `kid` is a key to be made, or the issuer as a whole."""

    kid: str
    time: datetime
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOutlook:
    """One key before and after a change. Times that are None are not known yet."""

    kid: str
    before: KeyState | None
    after: KeyState
    tokens_until: datetime | None
    """When the last token that it may have signed is dead, or is refused by every verifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A change: the ring before it and the ring as it will be, what happens to its keys, and who may fail until
    when.
    """

    before: Ring | None
    """None: the change makes the issuer."""
    ring: Ring
    steps: tuple[Step, ...]
    earliest_safe_time: datetime | None = None
    """When it need not be forced. None: now."""
    failures: str = ""
    """Which tokens fail at which verifiers, in words. Empty: none."""
    failures_until: datetime | None = None
    new_keys: int = 0
    """How many keys are still to be made for it: plan again with them before making the change."""

    @property
    def planned_on(self) -> int:
        """The version of the ring that it holds for; 0 for an issuer that does not exist yet."""
        return 0 if self.before is None else self.before.version

    @property
    def changes(self) -> bool:
        return self.ring is not self.before

    def outlook(self) -> tuple[KeyOutlook, ...]:
        """Every key that is or was published around the change."""
        now = self.ring.change.made_at
        earlier = () if self.before is None else published(self.before, now)
        shown = {key.kid for key in (*earlier, *published(self.ring, now))}
        return tuple(
            KeyOutlook(
                kid=key.kid,
                before=None if self.before is None else _state_of(self.before, key.kid, now),
                after=state(self.ring, key, now),
                tokens_until=_tokens_until(self.ring, key, now),
            )
            for key in self.ring.keys
            if key.kid in shown
        )


def accepted_until(ring: Ring, revoked_at: datetime) -> datetime:
    """Until when a verifier may still accept a revoked key: one that uses the last document of the last replica to
    hear of it.
    """
    policy = ring.policy
    return revoked_at + policy.verifier_cache + policy.document_max_age + policy.signing_lease


def _state_of(ring: Ring, kid: str, now: datetime) -> KeyState | None:
    key = ring.find(kid)
    return None if key is None else state(ring, key, now)


def _tokens_until(ring: Ring, key: Key, now: datetime) -> datetime | None:
    if key.revoked_at is not None:
        return accepted_until(ring, key.revoked_at)
    return published_until(ring, key) if state(ring, key, now) is KeyState.DEACTIVATED else None


def check_reason(change: Change, *, needed_for: str = "") -> None:
    if needed_for and not change.reason.strip():
        raise InvalidRequestError([FieldViolation("reason", f"is needed for {needed_for}")])
    if len(change.reason) > MAX_REASON_LENGTH:
        raise InvalidRequestError(
            [FieldViolation("reason", f"has {len(change.reason)} characters; at most {MAX_REASON_LENGTH} are allowed")]
        )


def check_change(ring: Ring, change: Change, *, reason_needed_for: str = "", of_retired: bool = False) -> None:
    """What every change needs: a reason where one is due, and an issuer that was not retired."""
    check_reason(change, needed_for=reason_needed_for)
    if is_retired(ring, change.made_at) and not of_retired:
        raise RefusedError(f"issuer {ring.issuer} was retired: it cannot come back", reason="ISSUER_RETIRED")


def check_room(ring: Ring, now: datetime, keys: int, most: int) -> None:
    if keys > most:
        raise RefusedError(
            f"issuer {ring.issuer} publishes {len(published(ring, now))} keys, and {keys} would be too many (at most "
            f"{most}): wait until old ones are withdrawn",
            reason="TOO_MANY_KEYS",
        )


def next_version(ring: Ring, keys: tuple[Key, ...], change: Change) -> Ring:
    return replace(ring, version=ring.version + 1, keys=keys, change=change)
