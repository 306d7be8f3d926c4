"""What the SQL store does beyond `tests/contract/test_store.py`: locks, failures, and how it asks."""

import asyncio
import sqlite3
import traceback
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from keyturn_server.domain.errors import RefusedError, UnavailableError
from keyturn_server.storage.sql import NEWEST_VERSIONS, SqlStore
from tests.databases import new_database
from tests.unit.storage.conftest import OpenStore
from tests.unit.storage.hands import READS, USES, WRITES, connected, execute, key, ring


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
        shown = "".join(traceback.format_exception(error))
        assert "[SQL parameters hidden" in shown
        assert "PLANTED" not in shown


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

    statements: list[str] = []

    @event.listens_for(store._engine.sync_engine, "before_cursor_execute")
    def count(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    versions = await store.newest_versions()
    statements.clear()
    assert await store.newest_rings(versions) == rings[1::2]
    assert len(statements) == 3, "no statement has too many variables"


async def test_the_order_of_the_answers_does_not_depend_on_the_database(path: Path, open_store: OpenStore) -> None:
    store = open_store(new_database(path))

    @event.listens_for(store._engine.sync_engine, "connect")
    def reverse(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.cursor().execute("PRAGMA reverse_unordered_selects = ON")

    await store.append(ring(1), add=[key("a"), key("b")])
    await store.append(ring(1, "adatum"))

    assert await store.newest_rings(["contoso", "adatum"]) == [ring(1, "adatum"), ring(1)]
    assert await store.wrapped_keys("contoso") == [key("a"), key("b")]


async def test_text_where_bytes_belong_is_read_as_bytes_for_others_to_refuse(path: Path, store: SqlStore) -> None:
    await store.append(ring(1), add=[key("a")])
    execute(path, "UPDATE ring_versions SET body = 'bödy'")
    execute(path, "UPDATE private_keys SET wrapped = 'text'")

    assert [ring.body for ring in await store.newest_rings(["contoso"])] == ["bödy".encode()]
    assert [key.wrapped for key in await store.wrapped_keys("contoso")] == [b"text"]
