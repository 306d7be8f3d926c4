"""What the SQL store does beyond `tests/contract/test_store.py`, and how it behaves when the database does not."""

import asyncio
import os
import random
import re
import sqlite3
import stat
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from keyturn_server.domain.errors import ConfigurationError, RefusedError, UnavailableError
from keyturn_server.ports import SealedRing, Stamp, WrappedKey
from keyturn_server.storage.sql import NEWEST_VERSIONS, SqlStore
from tests.databases import new_database
from tests.unit.storage.conftest import OpenStore

PLANTED = b"PLANTED-KEY-BYTES"

USES: dict[str, Callable[[SqlStore], Awaitable[object]]] = {
    "check_schema": lambda store: store.check_schema(),
    "read_stamp": lambda store: store.read_stamp(),
    "write_stamp": lambda store: store.write_stamp(Stamp("store-1", "kek-1", b"canary", b"integrity key")),
    "newest_versions": lambda store: store.newest_versions(),
    "newest_rings": lambda store: store.newest_rings(["contoso"]),
    "append": lambda store: store.append(ring(1), add=[key("a")]),
    "wrapped_keys": lambda store: store.wrapped_keys("contoso"),
}
READS = ["check_schema", "read_stamp", "newest_versions", "newest_rings", "wrapped_keys"]
WRITES = ["write_stamp", "append"]


def ring(version: int, issuer: str = "contoso") -> SealedRing:
    return SealedRing(issuer, version, b"body", b"signature")


def key(kid: str, wrapped: bytes = PLANTED * 80) -> WrappedKey:
    return WrappedKey("contoso", kid, "kek-1", wrapped)


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection, that waits for no lock."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        yield connection


def damage(path: Path, first_byte: int) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(first_byte)
        file.write(b"\xff" * (size - first_byte))


def execute(path: Path, statement: str) -> None:
    with connected(path) as connection:
        connection.execute(statement)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://keyturn:hunter2@db/keyturn", "postgresql is not supported; a store is a SQLite file"),
        ("sqlite+aiosqlite:///hunter2.db", r"sqlite\+aiosqlite is not supported"),
        ("hunter2.db", "is not a URL such as sqlite:////var/lib/keyturn/keyturn.db"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite://hunter2/keyturn.db", "must name a file"),
        ("sqlite:///keyturn.db?mode=hunter2", "must name a file"),
    ],
)
def test_a_url_that_names_no_sqlite_file_is_refused_and_not_repeated(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"storage\.url.*{message}") as refused:
        SqlStore.open(url)

    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


async def test_a_relative_url_counts_from_the_working_directory_at_the_time_of_opening(
    path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_database(path)
    monkeypatch.chdir(path.parent)
    store = open_store("sqlite:///keyturn.db")
    monkeypatch.chdir("/")

    assert await store.newest_versions() == {}


async def test_a_file_may_have_any_name(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store(new_database(tmp_path / "a b+%20#c?mode=ro&'é.db"))

    await store.append(ring(1))

    assert await store.newest_versions() == {"contoso": 1}


@pytest.mark.parametrize("use", USES)
async def test_a_missing_file_is_named_and_not_created(path: Path, open_store: OpenStore, use: str) -> None:
    with pytest.raises(ConfigurationError, match=r"storage\.url: .*/keyturn\.db: No such file.*`keyturn init`"):
        await USES[use](open_store())

    assert list(path.parent.iterdir()) == []


async def test_a_folder_in_the_place_of_the_file_is_refused(path: Path, open_store: OpenStore) -> None:
    store = open_store(f"sqlite:///{path.parent}")

    with pytest.raises(ConfigurationError, match=r"storage\.url: .* is not a file"):
        await store.check_schema()


async def test_a_file_that_this_user_may_not_use_is_refused(
    path: Path, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may use any file, and tests may run as root.
    monkeypatch.setattr("os.access", lambda file, _mode: file != path)

    with pytest.raises(ConfigurationError, match=r"storage\.url: this user may not both read and write .*keyturn\.db"):
        await store.check_schema()


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty file": (lambda path: path.touch(), "was never set up"),
    "a database of something else": (lambda path: execute(path, "CREATE TABLE customers (name)"), "was never set up"),
    "a text": (lambda path: path.write_text("Not a database. " * 500), "not a sound SQLite database"),
}


@pytest.mark.parametrize("use", ["check_schema", "read_stamp", "append"])
@pytest.mark.parametrize("foreign", FOREIGN)
async def test_what_was_never_set_up_as_a_store_is_refused_and_left_alone(
    path: Path, open_store: OpenStore, foreign: str, use: str
) -> None:
    make, message = FOREIGN[foreign]
    make(path)
    before = everything_in(path.parent)
    store = open_store()

    with pytest.raises(ConfigurationError, match=rf"storage\.url.*{message}"):
        await USES[use](store)

    await store.close()
    assert everything_in(path.parent) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE alembic_version SET version_num = '0000'",
            "revision 0000, and this keyturn needs 0001: run `keyturn migrate`",
        ),
        ("UPDATE alembic_version SET version_num = '0002'", "revision 0002, and this keyturn knows none after 0001"),
        ("DELETE FROM alembic_version", "never set up as a store: `keyturn init`"),
    ],
    ids=["older", "newer", "none"],
)
@pytest.mark.parametrize("use", ["check_schema", "read_stamp", "append"])
async def test_a_schema_of_another_revision_is_refused_with_what_to_do_and_left_alone(
    path: Path, store: SqlStore, change: str, message: str, use: str
) -> None:
    execute(path, change)
    before = everything_in(path.parent)

    with pytest.raises(ConfigurationError, match=rf"storage\.url.*{message}"):
        await USES[use](store)

    await store.close()
    assert everything_in(path.parent) == before


async def test_a_file_that_is_damaged_is_refused_at_the_start(path: Path, store: SqlStore) -> None:
    damage(path, 100)  # all but its header

    with pytest.raises(ConfigurationError, match=r"storage\.url: .*keyturn\.db is not a sound SQLite database"):
        await store.check_schema()


async def test_a_file_that_is_damaged_later_makes_the_store_unavailable(path: Path, store: SqlStore) -> None:
    await store.check_schema()
    damage(path, 4096)  # all but its first page, which was read already

    with pytest.raises(UnavailableError, match="failed to read its stamp: database disk image is malformed"):
        await store.read_stamp()


async def test_a_store_without_its_write_ahead_log_gets_it_back(path: Path, store: SqlStore) -> None:
    execute(path, "PRAGMA journal_mode = DELETE")

    await store.check_schema()

    with connected(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_every_connection_is_durable_overwrites_what_it_deletes_and_waits_for_locks(path: Path) -> None:
    store = SqlStore.open(new_database(path))
    expected = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1, "busy_timeout": 5000}
    await store.check_schema()

    async with AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(store._engine.connect())
            found = {name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one() for name in expected}
            assert found == expected
    await store.close()


async def test_the_database_and_its_log_are_only_their_owners(path: Path, store: SqlStore) -> None:
    await store.append(ring(1))

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == dict.fromkeys(["keyturn.db", "keyturn.db-wal", "keyturn.db-shm"], 0o600)


async def test_a_closed_store_leaves_one_file(path: Path, store: SqlStore) -> None:
    await store.append(ring(1))

    await store.close()

    assert [file.name for file in path.parent.iterdir()] == ["keyturn.db"]


@pytest.mark.parametrize("use", READS)
async def test_reads_do_not_wait_for_a_writer(path: Path, store: SqlStore, use: str) -> None:
    with connected(path) as writer:
        writer.execute("BEGIN IMMEDIATE")

        await USES[use](store)


@pytest.mark.parametrize("use", READS)
async def test_reads_leave_no_lock_behind(path: Path, store: SqlStore, use: str) -> None:
    await USES[use](store)

    with connected(path) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("use", WRITES)
async def test_a_write_that_finds_the_database_locked_is_unavailable_and_can_be_repeated(
    path: Path, store: SqlStore, use: str
) -> None:
    with connected(path) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match=r"storage\.url failed to .*: database is locked") as unavailable:
            await USES[use](store)
    assert unavailable.value.reason == "STORE_UNAVAILABLE"

    await USES[use](store)


@pytest.mark.parametrize("use", WRITES)
async def test_a_write_holds_the_lock_before_its_first_statement(path: Path, store: SqlStore, use: str) -> None:
    await store.check_schema()
    statements: list[str] = []

    @event.listens_for(store._engine.sync_engine, "before_cursor_execute")
    def write(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT", "SELECT")):
            statements.append(statement)
            with connected(path) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")

    await USES[use](store)

    assert statements[0].startswith("INSERT")


async def test_a_write_that_is_cancelled_leaves_the_store_usable(path: Path, store: SqlStore) -> None:
    await store.check_schema()
    with connected(path) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await store.append(ring(1))

    await store.append(ring(1))

    assert await store.newest_versions() == {"contoso": 1}


async def test_a_store_whose_connections_are_all_in_use_is_unavailable(store: SqlStore) -> None:
    await store.check_schema()
    async with AsyncExitStack() as stack:
        for _ in range(15):
            await stack.enter_async_context(store._engine.connect())

        with pytest.raises(UnavailableError, match="failed to read its stamp: every connection is in use"):
            await store.read_stamp()

    assert await store.read_stamp() is None


async def test_no_error_shows_the_bytes_of_a_key(path: Path, store: SqlStore) -> None:
    await store.append(ring(1), add=[key("a")])
    execute(
        path,
        "CREATE TRIGGER break_removal BEFORE UPDATE ON private_keys BEGIN SELECT abs(-9223372036854775808); END",
    )

    with pytest.raises(RefusedError) as refused:
        await store.append(ring(2), add=[key("a")])
    with pytest.raises(UnavailableError, match="failed to append a version of a ring: integer overflow") as failed:
        await store.append(ring(2), remove=["a"])

    for error in (refused.value, failed.value):
        assert error.__cause__ is not None
        # Removing writes zeros, as many as there were bytes.
        shown = "".join(traceback.format_exception(error))
        assert "PLANTED" not in shown
        assert r"\x00" not in shown


async def test_removed_keys_are_in_no_byte_of_any_file(path: Path, store: SqlStore) -> None:
    await store.append(ring(1), add=[key("a")])
    assert PLANTED in b"".join(everything_in(path.parent).values())

    await store.append(ring(2), remove=["a"])

    assert PLANTED not in b"".join(everything_in(path.parent).values())


async def test_no_copy_of_a_removed_key_stays_where_the_database_moved_rows(path: Path, store: SqlStore) -> None:
    # Sizes that make SQLite merge and split pages when rows are deleted; see `schema.private_keys`.
    choose = random.Random(7)
    stored: list[str] = []
    removed: set[bytes] = set()
    for version in range(1, 41):
        gone = choose.sample(stored, min(len(stored), choose.randint(0, 3)))
        new = [f"{version:03}-{number}" for number in range(choose.randint(0, 3))]
        added = [key(kid, f"<KEY {kid}>".encode() * choose.choice([25, 105])) for kid in new]

        await store.append(ring(version), add=added, remove=gone)

        stored = [kid for kid in stored if kid not in gone] + new
        removed |= {f"<KEY {kid}>".encode() for kid in gone}

        found = set(re.findall(rb"<KEY \d{3}-\d>", b"".join(everything_in(path.parent).values())))
        assert found & removed == set()
    assert len(removed) > 20


async def test_a_reader_in_the_way_delays_the_clearing_of_the_log_to_the_next_change(
    path: Path, store: SqlStore
) -> None:
    await store.append(ring(1), add=[key("a")])
    with connected(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM stamp").fetchall()

        await store.append(ring(2), remove=["a"])

        assert await store.wrapped_keys("contoso") == []
        assert PLANTED in b"".join(everything_in(path.parent).values()), "nothing is in the way"

    await store.append(ring(3))

    assert PLANTED not in b"".join(everything_in(path.parent).values())


async def test_the_newest_versions_are_read_from_the_index_alone(path: Path, store: SqlStore) -> None:
    await store.check_schema()

    with connected(path) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {NEWEST_VERSIONS}").fetchall()

    assert [detail for *_, detail in plan] == [
        "SCAN ring_versions USING COVERING INDEX sqlite_autoindex_ring_versions_1"
    ]


async def test_the_rings_of_thousands_of_issuers_are_read_at_once(path: Path, store: SqlStore) -> None:
    rings = [ring(version, f"issuer-{number:04}") for number in range(1001) for version in (1, 2)]
    with connected(path) as connection:
        rows = [(ring.issuer, ring.version, ring.body, ring.signature) for ring in rings]
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO ring_versions VALUES (?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    assert await store.newest_rings(await store.newest_versions()) == rings[1::2]


async def test_text_where_bytes_belong_is_read_as_bytes_for_others_to_refuse(path: Path, store: SqlStore) -> None:
    await store.append(ring(1), add=[key("a")])
    execute(path, "UPDATE ring_versions SET body = 'bödy'")
    execute(path, "UPDATE private_keys SET wrapped = 'text'")

    assert [ring.body for ring in await store.newest_rings(["contoso"])] == ["bödy".encode()]
    assert [key.wrapped for key in await store.wrapped_keys("contoso")] == [b"text"]
