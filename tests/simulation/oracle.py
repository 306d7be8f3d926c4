"""What no history may break: looks at every commit, every token and every document, in true time.

It stands for all verifiers that there may be. A document that anybody has fetched may be used from then on for as long
as a shared cache may hold it and a verifier after it, by a verifier whose clock is wrong by the tolerance either way.
"""

import json
import math
from base64 import b64decode
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from keyturn_server.domain.claims import SignedToken
from keyturn_server.domain.documents import Documents
from keyturn_server.domain.errors import UnavailableError
from keyturn_server.domain.key_plans import MAX_PUBLISHED_KEYS
from keyturn_server.domain.lifecycle import SCHEDULE
from keyturn_server.domain.policy import MAX_SCHEDULED_KEYS, Policy
from keyturn_server.domain.ring import Key, Ring
from tests.rings import NOW
from tests.simulation.keys import SimulatedKeys
from tests.simulation.world import Trace, ViolationError, seconds

EPOCH = NOW.timestamp()
ROUNDING = 1e-5
"""Seconds: times are recorded in microseconds, and a timer may be early by one."""

JWK_MEMBERS = {"alg", "e", "kid", "kty", "n", "use"}


@dataclass
class Published:
    """A document that verifiers may be using, and until when."""

    ring: Ring
    jwks: Mapping[str, Mapping[str, str]]
    expiries: Mapping[str, float]
    fetched: float
    until: float = 0.0


class Oracle:
    """Raises `ViolationError` where an invariant does not hold, and counts what it has looked at."""

    def __init__(self, trace: Trace, keys: SimulatedKeys, now: Any) -> None:
        self.tokens = 0
        self.verifications = 0
        self.fetches = 0
        self.refusals: Counter[str] = Counter()
        self.ring: Ring | None = None
        self._trace = trace
        self._keys = keys
        self._now = now
        self._policies: list[Policy] = []
        self._tolerance = 0.0
        self._lease = 0.0
        self._committed_at: list[float] = []
        self._known_at: dict[str, float] = {}
        self._revoked_at: dict[str, float] = {}
        self._commands: set[str] = set()
        self._documents: dict[tuple[str, str], Published] = {}
        self._last_expiry: dict[str, float] = {}
        self._names: dict[str, str] = {}

    # What operators, and the trace, call a key.

    def name(self, kid: str) -> str:
        return self._names.get(kid, kid)

    def told(self, text: str) -> str:
        return " ".join(self._names.get(word.rstrip(","), word) for word in text.split())

    def describe(self, ring: Ring) -> str:
        return "; ".join(
            f"{self.name(key.kid)} from {_moment(key.activates_at)}"
            + (
                f", published {_moment(key.published_at)}"
                if key.published_at is None or key.activates_at is None
                else ""
            )
            + (", forced" if key.forced else "")
            + (f", revoked {_moment(key.revoked_at)}" if key.revoked_at else "")
            + (f", destroyed {_moment(key.destroyed_at)}" if key.destroyed_at and not key.revoked_at else "")
            for key in ring.keys[-5:]
        )

    # Commits

    def committed(self, ring: Ring, private_keys: Collection[str]) -> None:
        """A version has become the newest, with these private keys beside it."""
        now, before = self._now(), self.ring
        for key in ring.keys:
            self._names.setdefault(key.kid, f"K{len(self._names)}")
            self._known_at.setdefault(key.kid, now)
            if key.revoked_at is not None:
                self._revoked_at.setdefault(key.kid, now)
        self._trace.tell("store", f"version {ring.version}: {self.told(ring.change.action)} | {self.describe(ring)}")
        if ring.version != len(self._committed_at) + 1:
            raise ViolationError(f"invariant 5: version {ring.version} follows version {len(self._committed_at)}")
        self._check_private_keys(ring, private_keys)
        if before is not None:
            self._check_step(before, ring, now)
        if ring.change.reason.startswith("command "):
            if ring.change.reason in self._commands:
                raise ViolationError(f"a command acts once: {ring.change.reason} made two versions")
            self._commands.add(ring.change.reason)
        if not self._policies or self._policies[-1] != ring.policy:
            self._trace.tell("store", str(ring.policy))
            self._policies.append(ring.policy)
            self._tolerance = max(_s(policy.clock_tolerance) for policy in self._policies)
            self._lease = max(_s(policy.signing_lease) for policy in self._policies)
        self._committed_at.append(now)
        self.ring = ring

    def _check_private_keys(self, ring: Ring, private_keys: Collection[str]) -> None:
        expected = {key.kid for key in ring.keys if key.revoked_at is None and key.destroyed_at is None}
        if set(private_keys) != expected:
            kept, wanted = (sorted(map(self.name, kids)) for kids in (private_keys, expected))
            raise ViolationError(f"invariant 5: the store has the private keys {kept}, the ring those of {wanted}")

    def _check_step(self, before: Ring, ring: Ring, now: float) -> None:
        scheduled = ring.change.actor == SCHEDULE
        new = ring.keys[len(before.keys) :]
        for old, key in zip(before.keys, ring.keys, strict=False):
            self._check_facts(old, key, scheduled=scheduled)
        if len(new) > 1:
            raise ViolationError(f"invariant 3: version {ring.version} makes {len(new)} keys")
        if new and scheduled:
            fastest = now + _s(before.policy.clock_tolerance)
            waiting = [key for key in before.keys if key.revoked_at is None and _later(key, fastest + ROUNDING)]
            if waiting:
                names = [self.name(key.kid) for key in waiting]
                raise ViolationError(f"invariant 3: a new standby is made while {names} waits on every clock")
        if new and not scheduled and not new[0].forced:
            raise ViolationError(f"invariant 3: an operator's change makes a key without force: {ring.change.action}")

    def _check_facts(self, old: Key, new: Key, *, scheduled: bool) -> None:
        if (old.kid, old.public_key, old.created_at) != (new.kid, new.public_key, new.created_at):
            raise ViolationError(f"invariant 4: key {self.name(old.kid)} became {new.kid}")
        for fact in ("published_at", "revoked_at", "destroyed_at") + (("activates_at",) if scheduled else ()):
            if getattr(old, fact) not in {None, getattr(new, fact)}:
                raise ViolationError(f"invariant 4: {fact} of key {self.name(old.kid)} was changed")
        if old.forced and not new.forced:
            raise ViolationError(f"invariant 2: key {self.name(old.kid)} is no longer recorded as forced")

    # Tokens

    def signed(self, who: str, clock_error: float, ring: Ring, token: SignedToken) -> None:
        """A replica has signed a token by a version of the ring."""
        now, kid = self._now(), token.key_id
        self.tokens += 1
        self._trace.digest(who, "signed", kid, token.expires_at)
        key = ring.find(kid)
        if key is None:
            raise ViolationError(f"invariant 1: {who} signs with {kid}, which its ring does not have")
        self._check_snapshot(who, ring, now)
        self._check_signer(who, ring, key, now)
        expires = token.expires_at - EPOCH
        alive = (
            f"a token that {who} (clock {clock_error:+.3f} s) signs with {self.name(kid)}, expiring at {expires:.0f}"
        )
        if token.issued_at - EPOCH > now:
            raise ViolationError(f"invariant 1: {alive}, becomes valid only at {token.issued_at - EPOCH:.0f}")
        self._last_expiry[kid] = max(expires, self._last_expiry.get(kid, 0.0))
        checked = False
        for document in list(self._documents.values()):
            if document.until + ROUNDING < now:
                continue
            self.verifications += 1
            if not self._covers(document, key, expires, alive) or checked:
                continue
            checked = True
            self._verify(token, document.jwks[kid], alive)

    def _check_snapshot(self, who: str, ring: Ring, now: float) -> None:
        """The signing lease: whatever a replica goes by was the newest version within it."""
        if ring.version < len(self._committed_at):
            superseded = self._committed_at[ring.version]
            if now > superseded + _s(ring.policy.signing_lease) + ROUNDING:
                raise ViolationError(
                    f"signing lease: {who} goes by version {ring.version}, superseded at {superseded:.6f}, "
                    f"{now - superseded:.3f} s ago: longer than the lease of {ring.policy.signing_lease}",
                )

    def _check_signer(self, who: str, ring: Ring, key: Key, now: float) -> None:
        if key.revoked_at is not None:
            raise ViolationError(f"revocation: {who} signs with {self.name(key.kid)}, which it knows to be revoked")
        revoked = self._revoked_at.get(key.kid)
        if revoked is not None and now > revoked + self._lease + ROUNDING:
            raise ViolationError(f"revocation: {who} signs with {self.name(key.kid)}, revoked at {revoked:.6f}")
        if key.forced or key is ring.keys[0]:
            return
        window = min(policy.propagation_window - 2 * policy.clock_tolerance for policy in self._policies)
        if now < self._known_at[key.kid] + _s(window) - ROUNDING:
            raise ViolationError(
                f"invariant 2: {who} signs with {self.name(key.kid)}, first committed at {self._known_at[key.kid]:.6f}"
            )

    def _covers(self, document: Published, key: Key, expires: float, alive: str) -> bool:
        """Whether a token verifies against a document. Raises where it must and does not."""
        if key.kid in document.jwks:
            # A document that was fetched before tokens lived longer need not cover them for longer than it is used.
            needed = expires if len(self._policies) == 1 else min(expires, document.until + self._tolerance)
            if document.expiries[key.kid] >= needed:
                return True
            raise ViolationError(
                f"invariant 1: {alive}, outlives its entry in {self._shown(document)}: {document.expiries[key.kid]:.0f}"
            )
        recorded = document.ring.find(key.kid)
        newest = None if self.ring is None else self.ring.find(key.kid)
        if key.kid in self._revoked_at and (recorded is None or recorded.revoked_at is not None):
            return False
        if recorded is None and newest is not None and newest.forced:
            return False
        raise ViolationError(f"invariant 1: {alive}, does not verify against {self._shown(document)}")

    def _verify(self, token: SignedToken, jwk: Mapping[str, str], alive: str) -> None:
        try:
            claims = self._keys.verify(token.token, jwk)
        except ValueError as error:
            raise ViolationError(f"invariant 1: {alive}, does not verify: {error}") from error
        if (claims["exp"], claims["iat"], claims["nbf"]) != (token.expires_at, token.issued_at, token.issued_at):
            raise ViolationError(f"invariant 1: {alive}, does not say what its answer says")

    # Documents

    def fetched(self, who: str, ring: Ring, documents: Documents) -> None:
        """A shared cache has fetched the documents of a replica, and verifiers begin to use them."""
        now = self._now()
        self.fetches += 1
        name = (documents.jwks.etag, documents.key_array.etag)
        self._trace.digest(who, "published", name)
        self._check_snapshot(who, ring, now)
        document = self._documents.get(name)
        if document is None or document.until + ROUNDING < now:
            document = _parse(documents, ring, now)
            self._check_document(who, document, now)
            self._documents = {each: known for each, known in self._documents.items() if known.until + ROUNDING >= now}
            self._documents[name] = document
            listed = [f"{self.name(kid)} until {until:.0f}" for kid, until in document.expiries.items()]
            self._trace.tell(who, f"publishes {', '.join(listed) or 'no key'}")
        usable = now + _s(documents.max_age) + _s(self._policies[-1].verifier_cache)
        document.until = max(document.until, usable)
        document.ring = ring
        self._check_live_tokens(document, now)

    def _check_document(self, who: str, document: Published, now: float) -> None:
        if list(document.jwks) != list(document.expiries):
            raise ViolationError(f"invariant 6: {who} publishes a JWKS and an array with different keys")
        for jwk in document.jwks.values():
            if set(jwk) != JWK_MEMBERS:
                raise ViolationError(f"invariant 6: {who} publishes a JWK with the members {sorted(jwk)}")
        ring, keys = document.ring, len(document.jwks)
        if known := [key for key in ring.keys if key.revoked_at is not None and key.kid in document.jwks]:
            raise ViolationError(f"revocation: {who} publishes {self.name(known[0].kid)}, which it knows to be revoked")
        forced = sum(key.forced for key in ring.keys)
        scheduled = max(map(_most_keys, self._policies))
        most = min(MAX_PUBLISHED_KEYS, (max(MAX_SCHEDULED_KEYS, scheduled) if self._commands else scheduled) + forced)
        if keys > most:
            raise ViolationError(f"invariant 6: {who} publishes {keys} keys, more than {most}")
        if keys == 0 and ring.retired_at is None:
            raise ViolationError(f"invariant 6: {who} publishes no key")

    def _check_live_tokens(self, document: Published, now: float) -> None:
        ring = self.ring
        assert ring is not None
        for kid, expires in self._last_expiry.items():
            if expires + self._tolerance <= now + ROUNDING:
                continue
            self.verifications += 1
            key = ring.find(kid)
            assert key is not None
            self._covers(document, key, expires, f"a token signed with {self.name(kid)}, expiring at {expires:.0f}")

    def refused(self, who: str, ring: Ring | None, error: UnavailableError) -> None:
        """A replica has refused to sign or to publish."""
        self.refusals[error.reason] += 1
        if error.reason == "NO_SIGNER" and (ring is None or ring.retired_at is None):
            raise ViolationError(f"a ring always has a signer: {who}: {error.message}")

    def rotations(self) -> int:
        """How many keys have taken over from another one."""
        if self.ring is None:
            return 0
        taken = [key for key in self.ring.keys if key.took_over and not _later(key, self._now())]
        return len(taken) - 1

    def _shown(self, document: Published) -> str:
        keys = [self.name(kid) for kid in document.jwks]
        return (
            f"a document with {keys}, first fetched at {document.fetched:.6f} from version {document.ring.version}, in "
            f"use until {document.until:.6f}"
        )


def _parse(documents: Documents, ring: Ring, now: float) -> Published:
    jwks = {jwk["kid"]: jwk for jwk in json.loads(documents.jwks.body)["keys"]}
    expiries = {}
    for entry in json.loads(documents.key_array.body):
        key = ring.find(entry["kid"])
        if key is None or b64decode(entry["publicKey"]).decode() != key.public_key.pem():
            raise ViolationError(f"invariant 6: the array lists {entry['kid']} with another public key")
        expiries[entry["kid"]] = entry["expiry"] - EPOCH
    return Published(ring, jwks, expiries, now)


def _most_keys(policy: Policy) -> int:
    """How many keys the policy implies: a clock that is ahead makes a standby before one that is behind withdraws the
    oldest key.
    """
    span = policy.coverage(policy.max_token_lifetime) + 2 * policy.clock_tolerance
    return math.ceil(span / policy.rotation_period) + 2


def _later(key: Key, time: float) -> bool:
    return key.activates_at is None or seconds(key.activates_at) > time


def _s(time: timedelta) -> float:
    return time.total_seconds()


def _moment(time: Any) -> str:
    return "?" if time is None else f"{seconds(time):.3f}"
