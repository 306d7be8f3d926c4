"""A writer that turns keys over as fast as it can is killed at random moments. The store then holds the state before
the change that was under way or the state after it, and the next pass goes on.

The writer does the passes of the service and an operator's revocations, on a clock that jumps to what is due next. It
is this module, run as a program of its own that forks a writer for each kill; for that it imports nothing that starts a
thread, gRPC least of all.

`KEYTURN_CRASH_ROUNDS` says how many are killed.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key
from structlog.testing import capture_logs

from keyturn_server.administration import Administration, Mutation
from keyturn_server.crypto.kek import Kek, read_kek_file
from keyturn_server.crypto.rsa_keys import RsaPrivateKeys, check_importable
from keyturn_server.crypto.stamp import open_stamp
from keyturn_server.domain.lifecycle import next_due
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import Ring, signer
from keyturn_server.initialise import Addresses, initialise
from keyturn_server.ledger import Ledger
from keyturn_server.logs import configure
from keyturn_server.maintenance import Maintenance
from keyturn_server.ports import RingSeal, SealedRing, WrappedKey
from keyturn_server.rings import Rings
from keyturn_server.rotation import Rotation
from keyturn_server.signers import Signers
from keyturn_server.storage.sql import SqlStore
from tests.doubles import ManualClock, private_key

ROUNDS = int(os.environ.get("KEYTURN_CRASH_ROUNDS", "20"))
ROUNDS_PER_STORE = 20
"""Then a new store takes over, because rings that grow for ever would make the rounds slow."""

MOST_CHANGES = 8
LONGEST_DELAY = 0.05
"""A writer is killed up to so many seconds after it began one of so many changes."""

ISSUER = "contoso"
PREMADE_KEYS = 120


class PremadeKeys(RsaPrivateKeys):
    """Real private keys under the real key encryption key, generated before, so that a writer spends its time with the
    store. Those that are lacking are generated as they are needed.
    """

    def __init__(self, kek: Kek, used: int) -> None:
        super().__init__(kek)
        self._used = used

    def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
        made = load_der_private_key(private_key(self._used), password=None, unsafe_skip_rsa_key_validation=True)
        self._used += 1
        return self._wrap(issuer, check_importable(made))


class NotingStore(SqlStore):
    """Notes each change in a pipe, before it begins and once it is said to be made."""

    notes: int

    async def append(self, ring: SealedRing, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        os.write(self.notes, f"begun {ring.version}\n".encode())
        await super().append(ring, add=add, remove=remove)
        os.write(self.notes, f"made {ring.version}\n".encode())


@dataclass(frozen=True)
class Replica:
    """What a service holds behind its listeners, on a clock of its own."""

    clock: ManualClock
    seal: RingSeal
    rings: Rings
    signers: Signers
    maintenance: Maintenance
    administration: Administration

    @property
    def ring(self) -> Ring:
        return self.rings.current(ISSUER)

    async def revoke_signer(self) -> None:
        revoked = signer(self.ring, self.clock.now())
        assert revoked is not None
        mutation = Mutation(
            issuer=ISSUER,
            actor="operator",
            expected_ring_version=self.ring.version,
            validate_only=False,
            force=True,
            reason="leaked",
        )
        await self.administration.revoke(mutation, revoked.kid)

    def wait_until_due(self) -> None:
        """Lets the clock jump to what is due next."""
        due = next_due(self.ring, self.clock.now())
        assert due is not None
        self.clock.time = due


@asynccontextmanager
async def replica(folder: Path, *, notes: int | None = None) -> AsyncIterator[Replica]:
    """A replica that has read the store; its clock shows the time of the last change. A writer has a pipe for notes."""
    url = f"sqlite:///{folder / 'keyturn.db'}"
    if notes is None:
        store = SqlStore.open(url)
    else:
        store = NotingStore.open(url)
        store.notes = notes
    try:
        stamp = await store.read_stamp()
        assert stamp is not None
        kek = read_kek_file(folder / "kek")
        seal = open_stamp(stamp, kek, tomllib.loads((folder / "keyturn.toml").read_text())["integrity"]["public_key"])
        ledger = Ledger(store, seal)
        last = (await ledger.read([ISSUER])).rings[ISSUER]
        clock = ManualClock(last.change.made_at)
        keys = RsaPrivateKeys(kek) if notes is None else PremadeKeys(kek, used=len(last.keys))
        signers = Signers(store, keys)
        rings = Rings(ledger, signers, clock)
        await rings.refresh()
        maintenance = Maintenance(rings, Rotation(ledger, rings, keys, clock, lambda: 0.0))
        yield Replica(clock, seal, rings, signers, maintenance, Administration(ledger, rings, keys, clock))
    finally:
        await store.close()


async def write(folder: Path, notes: int) -> None:
    """The writer. It never ends by itself."""
    async with replica(folder, notes=notes) as it:
        while True:
            await it.maintenance.step()
            if it.ring.version % 5 == 0:
                await it.revoke_signer()
            it.wait_until_due()


def serve_writers() -> None:
    """For each line, a number of changes, of seconds and a folder, lets a writer begin so many changes there, kills it
    so many seconds later, and answers with its exit code and its notes.
    """
    configure()
    private_key(PREMADE_KEYS - 1)
    for line in sys.stdin:
        changes, seconds, folder = line.rstrip().split(maxsplit=2)
        reading, writing = os.pipe()
        writer = os.fork()
        if not writer:
            asyncio.run(write(Path(folder), writing))
        os.close(writing)
        with os.fdopen(reading) as pipe:
            notes = [pipe.readline() for _ in range(2 * int(changes) - 1)]
            time.sleep(float(seconds))
            os.kill(writer, signal.SIGKILL)
            notes += pipe.readlines()
        _, status = os.waitpid(writer, 0)
        json.dump([os.waitstatus_to_exitcode(status), [note.split() for note in notes]], sys.stdout)
        sys.stdout.write("\n")
        sys.stdout.flush()


@dataclass
class Writers:
    """The program that starts writers and kills them."""

    process: subprocess.Popen[str]
    log: Path

    def kill_one(self, folder: Path, changes: int, seconds: float) -> tuple[int, int | None]:
        """Kills a writer and gives the last version that it began, and the last that it had made."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{changes} {seconds} {folder}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        log = self.log.read_text()
        assert answer, log
        code, notes = json.loads(answer)
        assert code == -signal.SIGKILL, log
        assert '"level": "error"' not in log, log
        last = {word: int(version) for word, version in notes}
        return last["begun"], last.get("made")


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    log = tmp_path_factory.mktemp("writers") / "log"
    command = [sys.executable, "-m", "tests.integration.test_crashes"]
    with (
        log.open("w") as written,
        subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        ) as process,
    ):
        yield Writers(process, log)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    initialise(folder, Addresses())
    return folder


@pytest.mark.parametrize("seed", range(-(-ROUNDS // ROUNDS_PER_STORE)))
def test_a_kill_leaves_the_state_before_or_after_the_change_and_the_next_pass_goes_on(
    origin: Path, writers: Writers, tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "keyturn"
    shutil.copytree(origin, folder)
    moments = random.Random(seed)
    seen = next_pass(folder)
    rounds = min(ROUNDS, ROUNDS_PER_STORE)
    interrupted = 0
    for round_ in range(rounds):
        changes, seconds = moments.randint(1, MOST_CHANGES), moments.uniform(0, LONGEST_DELAY)
        said = f"seed {seed}, round {round_}: killed {seconds:.3f} s after change {changes} began"
        print(said)  # noqa: T201 - the report of a failure shows it
        begun, made = writers.kill_one(folder, changes, seconds)
        ring = examined(folder)
        assert ring.version in {begun, made or seen.version}
        assert published(seen) <= published(ring)
        interrupted += begun != made
        seen = next_pass(folder)
        assert seen.version > ring.version
    print(f"{rounds} kills, {interrupted} within a change; {seen.version} versions")  # noqa: T201 - for `make soak`
    assert interrupted


def published(ring: Ring) -> set[tuple[str, datetime]]:
    return {(key.kid, key.published_at) for key in ring.keys if key.published_at is not None}


def examined(folder: Path) -> Ring:
    """The newest ring, of a store that is whole."""
    with capture_logs() as logs:
        ring = asyncio.run(examine(folder))
    assert {line["log_level"] for line in logs} == {"info"}, logs
    return ring


def next_pass(folder: Path) -> Ring:
    """The ring after a replica was started, did what had been left undone, and then what was due next."""
    with capture_logs() as logs:
        ring = asyncio.run(go_on(folder))
    assert {line["log_level"] for line in logs} == {"info"}, logs
    return ring


async def examine(folder: Path) -> Ring:
    """Every version is there and signed, and there are exactly the private keys that the newest one may still use."""
    assert select(folder, "PRAGMA integrity_check") == [("ok",)]
    versions = select(folder, "SELECT version, body, signature FROM ring_versions ORDER BY version")
    private_keys = select(folder, "SELECT kid, wrapped, removed FROM private_keys")
    async with replica(folder) as fresh:
        assert [version for version, _, _ in versions] == [*range(1, fresh.ring.version + 1)]
        assert all(fresh.seal.check(body, signature) for _, body, signature in versions)
        usable = {key.kid for key in fresh.ring.keys if key.destroyed_at is None and key.revoked_at is None}
        assert {kid for kid, _, _ in private_keys} == {key.kid for key in fresh.ring.keys}
        assert {kid for kid, _, removed in private_keys if not removed} == usable
        assert {kid for kid, wrapped, _ in private_keys if any(wrapped)} == usable
        assert all(fresh.signers.find(ISSUER, kid).sign(b"{}") for kid in usable)
        return fresh.ring


async def go_on(folder: Path) -> Ring:
    async with replica(folder) as started:
        await started.maintenance.step()
        started.wait_until_due()
        await started.maintenance.step()
        return started.ring


def select(folder: Path, statement: str) -> list[Any]:
    with sqlite3.connect(folder / "keyturn.db") as connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


if __name__ == "__main__":
    serve_writers()
