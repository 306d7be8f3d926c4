"""The store that all replicas of a history share, and what stands between it and each of them."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from sqlalchemy import event

from keyturn_server.domain.errors import KeyturnError, UnavailableError
from keyturn_server.ports import SealedRing, Stamp, Store, WrappedKey
from keyturn_server.storage.memory import MemoryDatabase, MemoryStore
from keyturn_server.storage.sql import SqlStore
from tests.databases import new_database

T = TypeVar("T")

PROMPT: ContextVar[bool] = ContextVar("PROMPT", default=False)
"""Whether nothing delays what is done now: it may fail, and it fails or takes effect at once."""

SQL_STATEMENTS = 8
"""More statements than any operation of a SQL store has."""


class Database:
    """In memory: every connection is a store of its own."""

    def __init__(self) -> None:
        self._database = MemoryDatabase()

    def connect(self) -> Store:
        return MemoryStore(self._database)

    async def append_and_die(self, store: Store, perform: Callable[[], Awaitable[None]], statements: int) -> None:
        """Performs so many statements and no more: here an append is one, which is not reached."""

    def close(self) -> None:
        """Lets go of everything."""


class SqliteDatabase(Database):
    """A SQLite file. The real operations run on a thread of their own, while virtual time and all else stand still."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._url = new_database(folder / "keyturn.db")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stores: list[_SqlConnection] = []

    def connect(self) -> Store:
        store = _SqlConnection(SqlStore.open(self._url), self._run)
        self._stores.append(store)
        return store

    async def append_and_die(self, store: Store, perform: Callable[[], Awaitable[None]], statements: int) -> None:
        assert isinstance(store, _SqlConnection)
        with _dying_after(store.sql, statements):
            try:
                await perform()
            except _DiedError:
                return

    def close(self) -> None:
        for store in self._stores:
            self._run(store.sql.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, operation: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(operation, self._loop).result()


class _DiedError(Exception):
    """The process is gone, in the middle of a transaction."""


@contextmanager
def _dying_after(store: SqlStore, statements: int) -> Iterator[None]:
    left = [statements]

    def count(*facts: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise _DiedError

    engine = store._engine.sync_engine
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, count)
    try:
        yield
    finally:
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine, name, count)


class _SqlConnection:
    """Implements `Store` over one that lives on another loop."""

    def __init__(self, sql: SqlStore, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.sql = sql
        self._run = run

    async def read_stamp(self) -> Stamp | None:
        stamp: Stamp | None = self._run(self.sql.read_stamp())
        return stamp

    async def write_stamp(self, stamp: Stamp) -> None:
        self._run(self.sql.write_stamp(stamp))

    async def newest_versions(self) -> Mapping[str, int]:
        versions: Mapping[str, int] = self._run(self.sql.newest_versions())
        return versions

    async def newest_rings(self, issuers: Collection[str]) -> Sequence[SealedRing]:
        rings: Sequence[SealedRing] = self._run(self.sql.newest_rings(issuers))
        return rings

    async def append(self, ring: SealedRing, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        self._run(self.sql.append(ring, add=add, remove=remove))

    async def wrapped_keys(self, issuer: str) -> Sequence[WrappedKey]:
        keys: Sequence[WrappedKey] = self._run(self.sql.wrapped_keys(issuer))
        return keys

    async def close(self) -> None:
        self._run(self.sql.close())


@dataclass(frozen=True)
class State:
    """What the store held at some time, of one issuer."""

    ring: SealedRing
    keys: Sequence[WrappedKey]


@dataclass
class Weather:
    """How bad the way to the store is, for everybody, in seconds and in probabilities of an operation."""

    random: Random
    faults: Counter[str]
    latency: float
    slowness: float
    freeze: float
    trouble: float = 0.0
    """0: none. 1: as much as a history has."""

    def happens(self, probability: float) -> bool:
        return self.trouble > 0 and self.random.random() < probability * self.trouble

    def note(self, fault: str) -> None:
        self.faults[fault] += 1


class Connection:
    """Implements `Store` for one process: the shared store, behind a network that fails and a process that dies.

    `reachable` is False while the process is cut off. A read that is old is one of a state from before what the
    process has seen already, or an answer that arrives late. (A store that goes on confirming an old state to a
    process that knows nothing newer is beyond what a signing lease can promise.)
    """

    def __init__(
        self,
        database: Database,
        weather: Weather,
        *,
        die: Callable[[], None],
        committed: Callable[[SealedRing], Awaitable[None]],
        freeze: Callable[[Coroutine[Any, Any, None]], object],
        states: Sequence[State],
    ) -> None:
        self.store = database.connect()
        self.reachable = True
        self.held: Callable[[], int] = lambda: 0
        """The version that the process goes by."""
        self._database = database
        self._weather = weather
        self._die = die
        self._committed = committed
        self._freeze = freeze
        self._states = states
        self._seen = 0

    async def read_stamp(self) -> Stamp | None:
        return await self.store.read_stamp()

    async def write_stamp(self, stamp: Stamp) -> None:
        await self.store.write_stamp(stamp)

    async def newest_versions(self) -> Mapping[str, int]:
        self._seen = self.held()

        async def read() -> Mapping[str, int]:
            if old := self._old_state():
                return {old.ring.issuer: old.ring.version}
            return await self.store.newest_versions()

        versions = await self._through(read)
        self._seen = max([self._seen, *versions.values()])
        return versions

    async def newest_rings(self, issuers: Collection[str]) -> Sequence[SealedRing]:
        async def read() -> Sequence[SealedRing]:
            if old := self._old_state():
                return [old.ring]
            return await self.store.newest_rings(issuers)

        return await self._through(read)

    async def wrapped_keys(self, issuer: str) -> Sequence[WrappedKey]:
        async def read() -> Sequence[WrappedKey]:
            if old := self._old_state():
                return old.keys
            return await self.store.wrapped_keys(issuer)

        return await self._through(read)

    async def append(self, ring: SealedRing, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        async def perform() -> None:
            await self.store.append(ring, add=add, remove=remove)
            await self._committed(ring)

        weather = self._weather
        if weather.happens(0.03):
            weather.note("process killed between two statements of a transaction")
            statements = weather.random.randrange(SQL_STATEMENTS)
            await self._database.append_and_die(
                self.store, lambda: self.store.append(ring, add=add, remove=remove), statements
            )
            if list(await self.store.newest_rings([ring.issuer])) == [ring]:
                await self._committed(ring)
            await self._dead()
        if not PROMPT.get() and weather.happens(0.06):
            await self._frozen(perform)
        await self._through(perform, lost_answer=0.06)

    async def close(self) -> None:
        await self.store.close()

    async def _through(self, perform: Callable[[], Awaitable[T]], *, lost_answer: float = 0.01) -> T:
        weather = self._weather
        await self._wait()
        if weather.happens(0.004):
            weather.note("process killed before a statement")
            await self._dead()
        if not self.reachable or weather.happens(0.02):
            weather.note("store unreachable")
            raise _unreachable()
        answer = await perform()
        if weather.happens(0.004):
            weather.note("process killed after a statement")
            await self._dead()
        if weather.trouble:
            await self._wait()
        if weather.happens(lost_answer):
            weather.note("connection lost after the statement")
            raise _unreachable()
        return answer

    async def _wait(self) -> None:
        weather = self._weather
        if PROMPT.get():
            return
        time = weather.latency * weather.random.random()
        if weather.happens(0.02):
            weather.note("store slow")
            time = weather.slowness * weather.random.random()
        await asyncio.sleep(time)

    async def _frozen(self, perform: Callable[[], Awaitable[None]]) -> None:
        """The commit takes effect, or fails, much later. The process does not wait for it that long, or at all."""
        weather = self._weather
        weather.note("commit frozen")
        thawed = asyncio.get_running_loop().time() + weather.freeze * weather.random.random() ** 2

        async def thaw() -> None:
            await asyncio.sleep(thawed - asyncio.get_running_loop().time())
            try:
                await perform()
            except KeyturnError:
                weather.note("frozen commit refused in the end")

        self._freeze(thaw())
        if weather.random.random() < 0.3:
            await self._dead()
        await asyncio.sleep(weather.slowness * weather.random.random())
        raise _unreachable()

    async def _dead(self) -> None:
        """Kills the process, which never comes back from here."""
        self._die()
        await asyncio.get_running_loop().create_future()

    def _old_state(self) -> State | None:
        """A state from before what the process has seen, where it is served one."""
        if self._seen < 2 or not self._weather.happens(0.02):
            return None
        self._weather.note("old read")
        newest = self._seen - 1
        return self._states[self._weather.random.randrange(max(0, newest - 5), newest)]


def _unreachable() -> UnavailableError:
    return UnavailableError("the connection to the store was lost", reason="STORE_UNAVAILABLE")
