"""Eight processes want the same next version of a ring, a hundred times over: each time one makes it, seven are told.

The race is this module, run as a program of its own. It forks the eight once it has imported what they need, and for
that it imports no more: no gRPC, nothing that starts a thread.
"""

import asyncio
import json
import multiprocessing
import sqlite3
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyturn_server.crypto.kek import Kek, Purpose, associated_data, read_kek_file
from keyturn_server.crypto.stamp import open_stamp
from keyturn_server.domain.errors import RingChangedError, UnavailableError
from keyturn_server.domain.lifecycle import advance, due, first_ring
from keyturn_server.domain.ring import Ring
from keyturn_server.domain.ring_codec import decode_ring
from keyturn_server.ledger import Ledger
from keyturn_server.ports import RingSeal, WrappedKey
from keyturn_server.storage.sql import SqlStore
from tests.rings import NOW, POLICY, change, kid, public_key

if TYPE_CHECKING:
    from tests.integration.deployment import Deployment

PROCESSES = 8
ROUNDS = 100
ISSUERS = [f"shop-{number}" for number in range(10)]
"""Each in turn has a round, because a ring with a hundred keys would keep the processes busy with reading it."""

ATTEMPTS = 5
ROUND_TIMEOUT = 60.0
"""Seconds, after which the others give up on a process that has failed."""


@dataclass(frozen=True)
class Opened:
    """A store that `init` made, and the keys that belong to it."""

    ledger: Ledger
    kek: Kek
    seal: RingSeal

    async def ring(self, issuer: str) -> Ring:
        return (await self.ledger.read([issuer])).rings[issuer]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Opened]:
    pinned = tomllib.loads((folder / "keyturn.toml").read_text())["integrity"]["public_key"]
    store = SqlStore.open(f"sqlite:///{folder / 'keyturn.db'}")
    try:
        stamp = await store.read_stamp()
        assert stamp is not None
        kek = read_kek_file(folder / "kek")
        seal = open_stamp(stamp, kek, pinned)
        yield Opened(Ledger(store, seal), kek, seal)
    finally:
        await store.close()


def issuer_of(round_: int) -> str:
    return ISSUERS[round_ % len(ISSUERS)]


def number_of(process: int, round_: int) -> int:
    """The number of the key with which a process enters a round: no other process and no other round has it."""
    return process * ROUNDS + round_


def wrapped_key(issuer: str, number: int, kek: Kek) -> WrappedKey:
    """What stands for the private half of a key, under the real key encryption key."""
    return WrappedKey(issuer, kid(number), kek.id, kek.wrap(private_half(number), place(issuer, number, kek)))


def private_half(number: int) -> bytes:
    return f"the private half of key {number}".encode()


def place(issuer: str, number: int, kek: Kek) -> bytes:
    return associated_data(Purpose.PRIVATE_KEY, issuer, kid(number), kek.id)


def rotation_time(ring: Ring) -> datetime:
    """When the ring needs its next key: its last one signs, and the one before that is to be destroyed."""
    activates_at = ring.keys[-1].activates_at
    assert activates_at is not None
    return activates_at + 2 * ring.policy.clock_tolerance


async def contend(folder: Path, process: int, barrier: Barrier) -> list[str]:
    """What one of the eight achieves in each round: `made` or `told`. All plan on the newest ring before any appends.

    Who made the version also dates the new key, as the pass that follows does. The next round is about another ring.
    """
    achieved = []
    async with opened(folder) as here:
        keys = [wrapped_key(issuer_of(round_), number_of(process, round_), here.kek) for round_ in range(ROUNDS)]
        for round_, wrapped in enumerate(keys):
            ring = await here.ring(issuer_of(round_))
            now = rotation_time(ring)
            rotated = advance(ring, now, public_key(number_of(process, round_)))
            barrier.wait(ROUND_TIMEOUT)
            try:
                await append(here.ledger, rotated, [wrapped], due(ring, now).destroy)
            except RingChangedError:
                achieved.append("told")
            else:
                await append(here.ledger, advance(rotated, now))
                achieved.append("made")
    return achieved


async def append(ledger: Ledger, ring: Ring, add: Sequence[WrappedKey] = (), remove: Sequence[str] = ()) -> None:
    """Appends a version; a store that the others keep busy for longer than its timeout is tried again."""
    for _ in range(ATTEMPTS - 1):
        with suppress(UnavailableError):
            return await ledger.append(ring, add=add, remove=remove)
    return await ledger.append(ring, add=add, remove=remove)


def race(folder: Path) -> list[list[str]]:
    """What the eight achieved, in each round."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
    processes = [
        context.Process(target=run, args=(folder, number, barrier, answers))
        for number, (_, answers) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process failed")
    return [list(each) for each in zip(*(heard.recv() for heard, _ in pipes), strict=True)]


def run(folder: Path, number: int, barrier: Barrier, answers: Connection) -> None:
    answers.send(asyncio.run(contend(folder, number, barrier)))


async def make_rings(folder: Path) -> None:
    """A ring for each issuer, as its first pass leaves it: with a signer, and a standby that is dated."""
    async with opened(folder) as here:
        for issuer, first in zip(ISSUERS, FIRST_KEYS, strict=True):
            keys = (public_key(first), public_key(first + 1))
            ring = first_ring(issuer, f"https://{issuer}.example", POLICY, keys, change())
            await here.ledger.append(ring, add=[wrapped_key(issuer, first + n, here.kek) for n in range(2)])
            await here.ledger.append(advance(ring, NOW))


FIRST_KEYS = range(PROCESSES * ROUNDS, PROCESSES * ROUNDS + 2 * len(ISSUERS), 2)


def test_eight_processes_that_race_a_hundred_rotations_make_exactly_a_hundred(deployment: "Deployment") -> None:
    asyncio.run(make_rings(deployment.folder))
    command = [sys.executable, "-m", "tests.integration.test_races", str(deployment.folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)
    assert [Counter(each) for each in rounds] == [Counter(made=1, told=PROCESSES - 1)] * ROUNDS

    made = [number_of(each.index("made"), round_) for round_, each in enumerate(rounds)]
    asyncio.run(check_rings(deployment.folder, made))


async def check_rings(folder: Path, made: Sequence[int]) -> None:
    """The rings have the keys of those who were told that they made one, in that order, and nobody else's."""
    async with opened(folder) as after:
        for index, issuer in enumerate(ISSUERS):
            numbers = [FIRST_KEYS[index], FIRST_KEYS[index] + 1, *made[index :: len(ISSUERS)]]
            ring = await after.ring(issuer)
            assert [key.kid for key in ring.keys] == [kid(number) for number in numbers]
            assert [key.destroyed_at is None for key in ring.keys] == [False] * (len(numbers) - 2) + [True] * 2
            check_history(after, folder, ring)
            check_private_keys(after, folder, issuer, numbers)


def check_history(store: Opened, folder: Path, newest: Ring) -> None:
    """Every version up to the newest is there, was signed, and has the keys that the newest has, up to its own last."""
    rows = select(folder, "SELECT body, signature FROM ring_versions WHERE issuer = ? ORDER BY version", newest.issuer)
    assert all(store.seal.check(body, signature) for body, signature in rows)
    history = [decode_ring(body) for body, _ in rows]
    assert [ring.version for ring in history] == [*range(1, newest.version + 1)]
    assert history[-1] == newest
    kids = [key.kid for key in newest.keys]
    assert all([key.kid for key in ring.keys] == kids[: len(ring.keys)] for ring in history)
    # Two versions make a new ring, two each rotation.
    assert [len(ring.keys) for ring in history] == [2 + version // 2 for version in range(newest.version)]


def check_private_keys(store: Opened, folder: Path, issuer: str, numbers: Sequence[int]) -> None:
    """The store holds the private half of the last two keys, zeros for those before, and none of anybody who lost."""
    rows = select(folder, "SELECT kid, wrapped, removed FROM private_keys WHERE issuer = ?", issuer)
    wrapped = {name: wrapped for name, wrapped, _ in rows}
    assert wrapped.keys() == {kid(number) for number in numbers}
    assert {name for name, _, removed in rows if removed} == {kid(number) for number in numbers[:-2]}
    assert not any(any(wrapped[kid(number)]) for number in numbers[:-2])
    for number in numbers[-2:]:
        assert store.kek.unwrap(wrapped[kid(number)], place(issuer, number, store.kek)) == private_half(number)


def select(folder: Path, statement: str, *values: str) -> list[Any]:
    with sqlite3.connect(folder / "keyturn.db") as connection:
        rows = connection.execute(statement, values).fetchall()
    connection.close()
    return rows


if __name__ == "__main__":
    json.dump(race(Path(sys.argv[1])), sys.stdout)
