"""The public documents, rendered once for each change and each boundary of a ring."""

from dataclasses import dataclass
from datetime import datetime

from keyturn_server.domain.documents import Documents, render
from keyturn_server.domain.ring import Ring
from keyturn_server.ports import Clock
from keyturn_server.rings import Rings


@dataclass(frozen=True, slots=True)
class _Rendered:
    ring: Ring
    at: datetime
    documents: Documents

    def holds(self, ring: Ring, now: datetime) -> bool:
        until = self.documents.valid_until
        return self.ring is ring and self.at <= now and (until is None or now < until)


class Publishing:
    """What anyone may read."""

    def __init__(self, rings: Rings, clock: Clock) -> None:
        self._rings = rings
        self._clock = clock
        self._rendered: dict[str, _Rendered] = {}

    def documents(self, issuer: str) -> Documents:
        """An issuer's documents now. Raises `NotFoundError` or, when they may be too old, `UnavailableError`."""
        ring = self._rings.current(issuer)
        now = self._clock.now()
        rendered = self._rendered.get(issuer)
        if rendered is None or not rendered.holds(ring, now):
            rendered = _Rendered(ring, now, render(ring, now))
            self._rendered[issuer] = rendered
        return rendered.documents
