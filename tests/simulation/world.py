"""Virtual time: an event loop whose clock jumps to the next thing that happens, and clocks that show it wrongly.

Everything that is random comes from one seeded source and everything happens on one thread, so a seed gives one
history, byte for byte.
"""

import asyncio
import hashlib
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any

from tests.rings import NOW

TICK = 3e-6
"""Seconds: what is aimed just before or just after an instant misses it by this. A timer is exact to a microsecond."""


class _Instants(selectors.SelectSelector):
    """Waits for nothing but time, and time passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left that could ever happen")
        self.time += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, in seconds since the history began.

    What goes to a thread runs on the loop, `thread_time` seconds later.
    """

    def __init__(self) -> None:
        self._instants = _Instants()
        super().__init__(self._instants)
        self._clock_resolution = 1e-6
        self.thread_time: Callable[[], float] = lambda: 0.0

    def time(self) -> float:
        return self._instants.time

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()

        def finish() -> None:
            if future.cancelled():
                return
            try:
                answer = func(*args)
            except Exception as error:  # noqa: BLE001 - a thread hands on whatever is raised
                future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(answer)

        self.call_later(self.thread_time(), finish)
        return future


class ReplicaClock:
    """A machine's clock: its time of day is wrong by `error` seconds, its other clock is right."""

    def __init__(self, loop: asyncio.AbstractEventLoop, error: float) -> None:
        self._loop = loop
        self.error = error

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self._loop.time() + self.error)

    def elapsed(self) -> float:
        return self._loop.time()


def seconds(time: datetime) -> float:
    """A time of day in seconds since the history began."""
    return (time - NOW).total_seconds()


class Trace:
    """What happened, in lines for people, and a digest of everything that is too much to tell."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.lines: list[str] = []
        self._digest = hashlib.sha256()

    def tell(self, who: str, what: str) -> None:
        self.lines.append(f"{self._loop.time():16.6f} s  {who:<11} {what}")

    def digest(self, *facts: object) -> None:
        self._digest.update(repr((self._loop.time(), facts)).encode())

    def text(self) -> str:
        return "\n".join([*self.lines, f"everything: sha256 {self._digest.hexdigest()}", ""])


class ViolationError(BaseException):
    """An invariant does not hold: one of the numbered ones of the service's design, or another rule.

    No `Exception`, so that nothing on its way takes it for a failure that may be tried again.
    """
