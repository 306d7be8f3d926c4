"""One token: from a known caller's request to the signed bytes."""

import uuid
from collections.abc import Mapping

from keyturn_server.domain.callers import Caller
from keyturn_server.domain.claims import SignedToken, Terms, TokenRequest, TokenRules, check_size, compose
from keyturn_server.domain.errors import NotFoundError, UnavailableError
from keyturn_server.domain.ring import Key, Ring, published_until, signer
from keyturn_server.ports import Clock
from keyturn_server.rings import Rings
from keyturn_server.signers import Signers


class Signing:
    """Signs what a caller may ask for, with the key that signs now."""

    def __init__(self, rings: Rings, signers: Signers, rules: Mapping[str, TokenRules], clock: Clock) -> None:
        self._rings = rings
        self._signers = signers
        self._rules = rules
        self._clock = clock

    def sign(self, caller: Caller, request: TokenRequest) -> SignedToken:
        """A token for the caller. Raises `InvalidRequestError`, `NotPermittedError` or `UnavailableError`.

        It costs one RSA signature and waits for nothing.
        """
        issuer = caller.choose_issuer(request.issuer)
        now = self._clock.now()
        ring = self._ring(issuer)
        key = signer(ring, now)
        if key is None:
            raise UnavailableError(f"issuer {issuer} has no key that may sign now", reason="NO_SIGNER")
        terms = Terms(
            iss=ring.iss,
            token_id=uuid.uuid4().hex,
            now=now,
            clock_tolerance=ring.policy.clock_tolerance,
            max_lifetime=min(
                ring.policy.max_token_lifetime, key.max_lifetime, caller.max_token_lifetime or key.max_lifetime
            ),
            allowed_claims=caller.additional_claims,
        )
        claims = compose(request, self._rules[issuer], terms)
        _check_cover(ring, key, claims.expires_at)
        token = self._signers.find(issuer, key.kid).sign(claims.payload)
        check_size(token)
        return SignedToken(token, key.kid, claims.token_id, claims.issued_at, claims.expires_at)

    def _ring(self, issuer: str) -> Ring:
        try:
            return self._rings.current(issuer)
        except NotFoundError as error:
            raise UnavailableError(
                f"issuer {issuer} is configured and not yet in the store", reason="ISSUER_NOT_IN_STORE"
            ) from error


def _check_cover(ring: Ring, key: Key, expires_at: int) -> None:
    """A token must not outlive the publication of its key."""
    until = published_until(ring, key)
    if until is not None and expires_at > until.timestamp():
        raise UnavailableError("the token would outlive the publication of its key", reason="KEY_NOT_COVERING")
