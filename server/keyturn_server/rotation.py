"""The pass: does for every ring what has come due. Any replica may run it at any time; one of those that race wins."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from keyturn_server.domain.errors import KeyturnError, RingChangedError
from keyturn_server.domain.lifecycle import advance, due, next_due
from keyturn_server.domain.ring import Ring
from keyturn_server.ledger import Ledger
from keyturn_server.ports import Clock, PrivateKeys
from keyturn_server.rings import Rings

log = structlog.get_logger(__name__)

RINGS_PER_PASS = 8
"""How many rings one pass advances. The rest wait for the next one, so that the replica refreshes in between: making
keys for thousands of issuers takes minutes, and the signing lease may be shorter.
"""

MOST_JITTER = timedelta(seconds=10)
"""The longest that a replica waits before it acts on what is due, so that not all of them make the same key. It is
also at most a tenth of the time that a new standby can be late without delaying a rotation.
"""


class Rotation:
    """Turns the keys over on schedule. `random` gives numbers from 0 to 1, for the jitter."""

    def __init__(
        self, ledger: Ledger, rings: Rings, private_keys: PrivateKeys, clock: Clock, random: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._rings = rings
        self._private_keys = private_keys
        self._clock = clock
        self._random = random
        self._next: dict[str, tuple[int, datetime | None]] = {}

    async def run_pass(self) -> bool:
        """Advances the rings that are due, the longest overdue first, and tells whether any was.

        The rings must have been refreshed just before. A ring that cannot be advanced is logged and left for the next
        pass; the others go on. Keys are made on a thread, one at a time, so that signing goes on.
        """
        now = self._clock.now()
        waiting = sorted(
            (when, ring.issuer, ring)
            for ring in self._rings.confirmed().values()
            if (when := self._due_at(ring, now)) is not None and when <= now
        )
        advanced = False
        for _, issuer, ring in waiting[:RINGS_PER_PASS]:
            if await self._advance(ring, now):
                advanced = True
            else:
                # Behind those that have waited until now, so that some that always fail never keep the others waiting.
                self._next[issuer] = (ring.version, now)
        return advanced

    def _due_at(self, ring: Ring, now: datetime) -> datetime | None:
        """When this replica acts on the ring: computed once for each version of it."""
        version, when = self._next.get(ring.issuer, (0, None))
        if version != ring.version:
            when = next_due(ring, now)
            if when is not None and when > now:
                spare = (ring.policy.rotation_period - ring.policy.propagation_window) / 10
                when += min(spare, MOST_JITTER) * self._random()
            self._next[ring.issuer] = (ring.version, when)
        return when

    async def _advance(self, ring: Ring, now: datetime) -> bool:
        todo = due(ring, now)
        if not todo:
            return False
        try:
            if todo.make_standby:
                public_key, wrapped = await asyncio.to_thread(
                    self._private_keys.generate, ring.issuer, ring.policy.key_size
                )
                await self._ledger.append(advance(ring, now, public_key), add=[wrapped], remove=todo.destroy)
            else:
                await self._ledger.append(advance(ring, now), remove=todo.destroy)
        except RingChangedError:
            log.debug("another change came first", issuer=ring.issuer, version=ring.version)
        except KeyturnError as error:
            log.error("rotation failed, will be tried again", issuer=ring.issuer, why=error.message)
            return False
        except Exception:
            log.exception("rotation failed, will be tried again", issuer=ring.issuer)
            return False
        return True
