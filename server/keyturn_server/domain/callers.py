"""Who may ask for what: the callers of the signing service."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from keyturn_server.domain.errors import (
    FieldViolation,
    InvalidRequestError,
    NotAuthenticatedError,
    NotPermittedError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated workload, known by the one URI or DNS name in its client certificate."""

    identity: str
    issuers: frozenset[str]
    max_token_lifetime: timedelta | None = None
    """None: the issuer's maximum."""
    additional_claims: frozenset[str] = frozenset()

    def choose_issuer(self, requested: str) -> str:
        """The issuer to sign for: the requested one, or the only one. Raises where that is not this caller's.

        An issuer that does not exist and one that is somebody else's give the same answer.
        """
        if not requested and len(self.issuers) > 1:
            raise InvalidRequestError([FieldViolation("issuer", "is needed: this caller may sign for several issuers")])
        if not requested and len(self.issuers) == 1:
            return next(iter(self.issuers))
        if requested not in self.issuers:
            raise NotPermittedError(
                f"this caller may not sign for issuer {requested[:100]!r}: the operator can add it to its "
                "[[callers]] entry",
                reason="ISSUER_NOT_PERMITTED",
            )
        return requested


class Callers:
    """All configured callers."""

    def __init__(self, callers: Iterable[Caller]) -> None:
        self._by_identity: Mapping[str, Caller] = {caller.identity: caller for caller in callers}

    def identify(self, names: Sequence[str]) -> Caller:
        """The caller that one of these URI and DNS names of a certificate stands for.

        Raises `NotAuthenticatedError` unless exactly one caller matches; a common name is not among the names.
        """
        if not names:
            raise NotAuthenticatedError(
                "the client certificate has no URI or DNS subject alternative name (a common name does not count)",
                reason="NO_IDENTITY",
            )
        matches = [self._by_identity[name] for name in dict.fromkeys(names) if name in self._by_identity]
        if not matches:
            raise NotAuthenticatedError(
                f"{_listed(names)} is not a configured caller: the operator can add a [[callers]] entry for it",
                reason="UNKNOWN_IDENTITY",
            )
        if len(matches) > 1:
            raise NotAuthenticatedError(
                f"the client certificate stands for several callers ({_listed(names)}); it must stand for exactly one",
                reason="SEVERAL_IDENTITIES",
            )
        return matches[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:200]) for name in names[:5])
