"""Which files the store takes, and that it leaves all others as they are."""

import stat
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from keyturn_server.domain.errors import ConfigurationError, UnavailableError
from keyturn_server.storage.sql import SqlStore
from keyturn_server.storage.sqlite import LOCK_TIMEOUT
from tests.databases import new_database
from tests.unit.storage.conftest import OpenStore
from tests.unit.storage.hands import USES, connected, damage, delete, everything_in, execute, ring


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


async def test_a_file_that_vanishes_makes_new_connections_fail_and_is_not_created(path: Path, store: SqlStore) -> None:
    await store.check_schema()
    await store._engine.dispose()
    delete(path)

    with pytest.raises(UnavailableError, match="failed to append a version of a ring: unable to open database file"):
        await store.append(ring(1))

    assert everything_in(path.parent) == {}


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


async def test_every_connection_is_durable_overwrites_what_it_deletes_and_waits_for_locks(
    path: Path, open_store: OpenStore
) -> None:
    store = open_store(new_database(path), lock_timeout=LOCK_TIMEOUT)
    expected = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1, "busy_timeout": 5000}
    await store.check_schema()

    async with AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(store._engine.connect())
            found = {name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one() for name in expected}
            assert found == expected


async def test_the_driver_begins_no_transaction_of_its_own(store: SqlStore) -> None:
    await store.check_schema()

    async with store._engine.connect() as connection:
        await connection.exec_driver_sql("DELETE FROM stamp")
        driver_connection = (await connection.get_raw_connection()).driver_connection

        assert driver_connection is not None
        assert not driver_connection.in_transaction


async def test_the_database_and_its_log_are_only_their_owners(path: Path, store: SqlStore) -> None:
    await store.append(ring(1))

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == dict.fromkeys(["keyturn.db", "keyturn.db-wal", "keyturn.db-shm"], 0o600)


async def test_a_closed_store_leaves_one_file(path: Path, store: SqlStore) -> None:
    await store.append(ring(1))

    await store.close()

    assert [file.name for file in path.parent.iterdir()] == ["keyturn.db"]
