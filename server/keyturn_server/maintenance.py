"""The service's heartbeat: refresh the rings, run the pass, wait, again."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from keyturn_server.domain.errors import UnavailableError
from keyturn_server.rings import Rings
from keyturn_server.rotation import Rotation

log = structlog.get_logger(__name__)

MOST_PASSES = 4
"""How many passes follow each other at once. Two catch up after any downtime: one makes a standby, the next dates
it.
"""


class Maintenance:
    """Keeps a replica up to date and its rings turning."""

    def __init__(self, rings: Rings, rotation: Rotation) -> None:
        self._rings = rings
        self._rotation = rotation
        self._store_answers = True

    async def step(self) -> None:
        """Refreshes, and advances what is due until nothing is. An unreachable store is logged once and tried again
        later.
        """
        try:
            await self._rings.refresh()
            for _ in range(MOST_PASSES):
                if not await self._rotation.run_pass():
                    break
                await self._rings.refresh()
        except UnavailableError as error:
            if self._store_answers:
                log.warning("store unreachable, going on from memory", why=error.message)
            self._store_answers = False
        else:
            if not self._store_answers:
                log.info("store reachable again")
            self._store_answers = True

    async def run(self, interval: timedelta, after_step: Callable[[], Awaitable[None]]) -> None:
        """Steps for ever, `interval` apart. A step that fails in an unforeseen way is logged, and the next one is
        taken.
        """
        while True:
            try:
                await self.step()
                await after_step()
            except Exception:
                log.exception("maintenance failed, will be tried again")
            await asyncio.sleep(interval.total_seconds())
