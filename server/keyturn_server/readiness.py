"""Whether this replica should get traffic, and if not, why not."""

from collections.abc import Sequence

from keyturn_server.domain.errors import KeyturnError
from keyturn_server.rings import Rings


class Readiness:
    """Ready means: it has a ring to go by for at least one issuer. Trouble with one takes no replica out of service."""

    def __init__(self, rings: Rings) -> None:
        self._rings = rings
        self._draining = False

    def drain(self) -> None:
        """From now on not ready: the service is about to stop."""
        self._draining = True

    def reasons(self) -> Sequence[str]:
        """Every reason against traffic, in sentences; none when ready."""
        if self._draining:
            return ["the service is draining and will stop"]
        if not self._rings.refreshed:
            return ["the store has not been read yet"]
        issuers = self._rings.all()
        problems = [problem for issuer in issuers if (problem := self._problem(issuer))]
        if not issuers:
            return ["the store has no issuer that can be trusted: see the log"]
        return problems if len(problems) == len(issuers) else []

    def _problem(self, issuer: str) -> str:
        try:
            self._rings.current(issuer)
        except KeyturnError as error:
            return error.message
        return ""
