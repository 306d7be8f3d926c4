"""One history: replicas, a store, operators and trouble, from one seed."""

import asyncio
import contextlib
import logging
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import structlog

from keyturn_server import ledger
from keyturn_server.administration import Administration, Mutation
from keyturn_server.domain.lifecycle import is_overdue
from keyturn_server.domain.ring import known_at, standby
from keyturn_server.domain.ring_codec import decode_ring
from keyturn_server.ledger import Ledger
from keyturn_server.ports import SealedRing
from keyturn_server.rings import Rings
from keyturn_server.signers import Signers
from tests.doubles import HmacSeal
from tests.simulation.actors import ISS, ISSUER, RUNNING, Operator, Process
from tests.simulation.keys import PremadeKeys, RealKeys, SimulatedKeys
from tests.simulation.oracle import Oracle
from tests.simulation.policies import random_policy
from tests.simulation.store import PROMPT, Connection, Database, SqliteDatabase, State, Weather
from tests.simulation.world import ReplicaClock, Trace, ViolationError, VirtualLoop


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What kind of history a seed has."""

    seed: int
    sqlite: bool = False
    real_keys: bool = False
    cycles: int = 3
    prompt_operators: bool = True
    """Whether what operators do takes effect the moment they do it, or not at all."""
    operators: bool = True
    restarts: int = 0
    """How often processes are killed on top of what the trouble does."""


@dataclass(kw_only=True)
class Outcome:
    """What came of a history."""

    seed: int
    rotations: int = 0
    tokens: int = 0
    verifications: int = 0
    fetches: int = 0
    versions: int = 0
    keys: int = 0
    """How many keys the ring has had."""
    slowest_healing: timedelta = timedelta(0)
    slowest_healing_polls: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    violation: str = ""
    trace: str = ""


def play(scenario: Scenario) -> Outcome:
    """Plays a history to its end, or to the first violation."""
    random = Random(f"history {scenario.seed}")
    loop = VirtualLoop()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyturn-simulation-")))
        database = SqliteDatabase(folder) if scenario.sqlite else Database()
        stack.callback(database.close)
        history = _History(scenario, random, loop, database)
        loop.thread_time = history.thread_time
        stack.enter_context(_logs_into(history))
        # All replicas read the same bytes, and decoding is a pure function.
        stack.enter_context(patch.object(ledger, "decode_ring", lru_cache(maxsize=64)(decode_ring)))
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(history.run())
        return history.outcome


class _History:
    def __init__(self, scenario: Scenario, random: Random, loop: VirtualLoop, database: Database) -> None:
        self.loop = loop
        self.random = random
        self.trace = Trace(loop)
        self.keys: SimulatedKeys = RealKeys() if scenario.real_keys else PremadeKeys(self._before_thread)
        self.oracle = Oracle(self.trace, self.keys, loop.time)
        self.seal = HmacSeal()
        self.outcome = Outcome(seed=scenario.seed)
        self.policy = random_policy(random)
        self._scenario = scenario
        self._database = database
        self._replicas = [_Replica(f"replica {number}") for number in range(random.choice((3, 3, 3, 3, 3, 4, 5, 7)))]
        self._poll = self.policy.signing_lease.total_seconds() / random.choice((1.4, 1.4, 2.0, 3.0))
        self._states: list[State] = []
        self._eye = database.connect()
        self._weather = Weather(
            random=random,
            faults=self.outcome.faults,
            latency=self._poll / 100,
            slowness=self._poll * random.choice((0.5, 2.0, 5.0)),
            freeze=self.policy.propagation_window.total_seconds() * random.choice((0.2, 1.0, 3.0)),
        )
        self._background: set[asyncio.Task[None]] = set()
        self._downtime = 0.0
        self._failed: asyncio.Future[None] = loop.create_future()
        self._operator = Operator(self, may_force=random.random() < 0.4, may_apply=random.random() < 0.4)

    # What actors use

    def thread_time(self) -> float:
        return 0.0 if PROMPT.get() else self._poll / 50 * self.random.random()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._look_at)
        return task

    def connect(self, die: Callable[[], None]) -> Connection:
        return Connection(
            self._database, self._weather, die=die, committed=self._committed, freeze=self.spawn, states=self._states
        )

    def died(self, process: Process) -> None:
        """Something starts its replica anew, sooner or later."""
        time = self._downtime or self._poll * self.random.choice((0.1, 1.0, 6.0))
        self.loop.call_later(time * self.random.random(), self._restart, process)

    def log(self, event: str, facts: dict[str, Any]) -> None:
        """A line of the service's log."""
        process = RUNNING.get()
        who = process.name if process else "somebody"
        said = ", ".join(f"{name} {self.oracle.told(str(value))}" for name, value in facts.items())
        self.trace.tell(who, f"log: {event} ({said})")

    def fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _look_at(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.fail(error)

    async def _committed(self, ring: SealedRing) -> None:
        rows = await self._eye.wrapped_keys(ISSUER)
        self._states.append(State(ring, rows))
        reading = await Ledger(self._eye, self.seal).read([ISSUER])
        try:
            self.oracle.committed(reading.rings[ISSUER], [row.kid for row in rows])
        except ViolationError as error:
            # Before the killing of a process can swallow it.
            self.fail(error)
            raise

    def _before_thread(self) -> None:
        process = RUNNING.get()
        if process is not None and self._weather.happens(0.01):
            self._weather.note("process killed while it makes or opens a key")
            process.kill()

    # The plot

    async def run(self) -> None:
        script = self.loop.create_task(self._script())
        await asyncio.wait({script, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        error = self._failed.exception() if self._failed.done() else script.exception()
        script.cancel()
        outcome, oracle = self.outcome, self.oracle
        if error is not None:
            self.trace.tell("oracle", f"VIOLATION: {error}" if isinstance(error, ViolationError) else _told(error))
            outcome.violation = str(error) if isinstance(error, ViolationError) else _told(error)
        outcome.rotations = max(0, oracle.rotations())
        outcome.tokens, outcome.verifications, outcome.fetches = oracle.tokens, oracle.verifications, oracle.fetches
        outcome.versions = 0 if oracle.ring is None else oracle.ring.version
        outcome.keys = 0 if oracle.ring is None else len(oracle.ring.keys)
        outcome.commands = self._operator.commands
        outcome.trace = self.trace.text()

    async def _script(self) -> None:
        self.trace.tell("history", f"seed {self._scenario.seed}, {self.policy}, poll {self._poll:.3f} s")
        await self._found()
        for replica in self._replicas:
            self._start(replica)
        for _ in range(self._scenario.cycles):
            await self._trouble()
            await self._heal()
            await self._calm()

    async def _found(self) -> None:
        """Makes the issuer, as `issuers apply` does."""
        clock = ReplicaClock(self.loop, self._clock_error())
        connection = self.connect(lambda: None)
        rings = Rings(books := Ledger(connection, self.seal), Signers(connection, self.keys), clock)
        administration = Administration(books, rings, self.keys, clock)
        making = Mutation(issuer=ISSUER, actor="init", expected_ring_version=0, validate_only=False)
        await administration.apply(making, ISS, self.policy)

    async def _trouble(self) -> None:
        self._weather.trouble = self.random.choice((0.3, 1.0, 1.0, 3.0))
        self.trace.tell("history", f"trouble begins ({self._weather.trouble})")
        period = self.policy.rotation_period.total_seconds()
        restarts = self._scenario.restarts / self._scenario.cycles
        end = self.loop.time() + max(period * self.random.uniform(3, 7), restarts * self._poll)
        acts = [(self._kill, 2.0), (self._cut_off, 2.0), (self._step_a_clock, 2.0)]
        if self._scenario.operators:
            acts.append((self._command, 1.5))
        if self.random.random() < 0.1:
            acts.append((self._kill_all, 0.2))
        tasks = [self.spawn(self._now_and_then(act, rate / period, end)) for act, rate in acts]
        if restarts:
            tasks.append(self.spawn(self._now_and_then(self._kill, restarts / (end - self.loop.time()), end)))
        await asyncio.wait(tasks)
        self._weather.trouble = 0.0

    async def _now_and_then(self, act: Callable[[], None], rate: float, end: float) -> None:
        while (wait := self.random.expovariate(rate)) < end - self.loop.time():
            await asyncio.sleep(wait)
            act()

    async def _heal(self) -> None:
        """From the end of all trouble: everything runs, and soon goes by the same version and signs."""
        self.trace.tell("history", "all trouble is over")
        for replica in self._replicas:
            if replica.process is None or not replica.process.alive:
                self._start(replica)
            assert replica.process is not None
            replica.process.store.reachable = True
        began, limit = self.loop.time(), 6 * self._poll + self._weather.slowness
        while not self._is_healed():
            if self.loop.time() > began + limit:
                raise ViolationError(f"healing: after {self.loop.time() - began:.3f} s: {self._ailments()}")
            await asyncio.sleep(self._poll / 8)
        took = timedelta(seconds=self.loop.time() - began)
        self.trace.tell("history", f"has healed after {took}")
        self.outcome.slowest_healing = max(took, self.outcome.slowest_healing)
        self.outcome.slowest_healing_polls = max(took.total_seconds() / self._poll, self.outcome.slowest_healing_polls)

    def _is_healed(self) -> bool:
        return not self._ailments()

    def _ailments(self) -> list[str]:
        newest = self.oracle.ring
        assert newest is not None
        found = []
        for replica in self._replicas:
            process = replica.process
            assert process is not None
            reasons = list(process.readiness.reasons())
            version = process.rings.version(ISSUER)
            if version != newest.version:
                reasons.append(f"it goes by version {version}, not {newest.version}")
            ring = None if reasons else process.rings.current(ISSUER)
            if not reasons and not process.sign(ring):
                reasons.append("it does not sign")
            if not reasons and not process.publish(ring):
                reasons.append("it does not publish")
            found += [f"{process.name}: {reason}" for reason in reasons]
        return found

    async def _calm(self) -> None:
        """Without trouble every request succeeds, and keys turn over on schedule."""
        ring = self.oracle.ring
        assert ring is not None
        await asyncio.sleep(3 * self._weather.slowness)
        before = self.oracle.refusals.copy()
        period, window = (
            time.total_seconds() for time in (ring.policy.rotation_period, ring.policy.propagation_window)
        )
        await asyncio.sleep(period + window + 6 * self._poll)
        if self.oracle.refusals != before:
            raise ViolationError(f"healing: requests are refused in calm times: {self.oracle.refusals - before}")
        for replica in self._replicas:
            assert replica.process is not None
            self._check_schedule(replica.process)

    def _check_schedule(self, process: Process) -> None:
        """A rotation may be late by a few passes, or because verifiers must know the next signer first."""
        ring = self.oracle.ring
        assert ring is not None
        late = process.clock.now() - timedelta(seconds=6 * self._poll) - 3 * ring.policy.clock_tolerance
        following = standby(ring, late)
        if is_overdue(ring, late) and not (
            following is not None
            and following.published_at is not None
            and following.activates_at == known_at(ring, following.published_at)
        ):
            raise ViolationError(f"healing: rotation is overdue: {self.oracle.describe(ring)}")

    # Trouble

    def _clock_error(self) -> float:
        tolerance = self.policy.clock_tolerance.total_seconds()
        return self.random.choice((-tolerance, tolerance, self.random.uniform(-tolerance, tolerance)))

    def _start(self, replica: "_Replica") -> None:
        clock = ReplicaClock(self.loop, self._clock_error())
        replica.process = Process(self, replica.name, clock, self._poll * self.random.uniform(0.8, 1))
        replica.process.start()

    def _restart(self, process: Process) -> None:
        for replica in self._replicas:
            if replica.process is process:
                self._start(replica)

    def _any_process(self) -> Process | None:
        alive = [replica.process for replica in self._replicas if replica.process and replica.process.alive]
        return self.random.choice(alive) if alive else None

    def _kill(self) -> None:
        if process := self._any_process():
            self._weather.note("process killed")
            process.kill()

    def _kill_all(self) -> None:
        self._weather.note("every process killed")
        self._downtime = 3 * self.policy.rotation_period.total_seconds()
        for replica in self._replicas:
            if replica.process:
                replica.process.kill()
        self._downtime = 0.0

    def _cut_off(self) -> None:
        """Takes the store away from one process, or from all, often for longer than the signing lease."""
        alive = [replica.process for replica in self._replicas if replica.process and replica.process.alive]
        cut = alive if self.random.random() < 0.2 else self.random.sample(alive, min(1, len(alive)))
        time = self.policy.signing_lease.total_seconds() * self.random.uniform(0, 2)
        for process in cut:
            self._weather.note("process cut off from the store")
            self.trace.tell(process.name, f"is cut off from the store for {time:.3f} s")
            process.store.reachable = False
            self.loop.call_later(time, _reconnect, process)

    def _step_a_clock(self) -> None:
        if process := self._any_process():
            self._weather.note("clock stepped")
            process.clock.error = self._clock_error()
            self.trace.tell(process.name, f"its clock steps and is {process.clock.error:+.3f} s off")

    def _command(self) -> None:
        if process := self._any_process():
            process.run(self._do(self._operator.one_command(process)))

    async def _do(self, command: Coroutine[Any, Any, None]) -> None:
        PROMPT.set(self._scenario.prompt_operators)
        await command


@dataclass
class _Replica:
    name: str
    process: Process | None = None


def _reconnect(process: Process) -> None:
    process.store.reachable = True


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@contextlib.contextmanager
def _logs_into(history: _History) -> Iterator[None]:
    """What the service logs becomes part of the trace; what it did not foresee ends the history."""

    def note(_logger: Any, _method: str, facts: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event = str(facts.pop("event"))
        if facts.pop("exc_info", None):
            history.log(event, dict(facts))
            history.fail(AssertionError(f"{event}: {traceback.format_exc()}"))
        else:
            history.log(event, dict(facts))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[note],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)
