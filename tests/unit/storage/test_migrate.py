import os
import sqlite3
import stat
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect

from keyturn_server.domain.errors import ConfigurationError, UnavailableError
from keyturn_server.storage import schema
from keyturn_server.storage.migrate import alembic_config, migrate
from tests.databases import new_database


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_the_migrations_lead_to_the_tables_that_the_store_uses(path: Path) -> None:
    migrate(url(path))
    engine = create_engine(url(path))

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_the_migrations_make_the_constraints_of_the_tables_that_the_store_uses(path: Path, tmp_path: Path) -> None:
    migrated, created = create_engine(url(path)), create_engine(url(tmp_path / "created.db"))
    migrate(url(path))
    schema.metadata.create_all(created)

    def constraints(engine: Engine) -> dict[str, tuple[Any, ...]]:
        about = inspect(engine)
        return {
            name: (about.get_pk_constraint(name), about.get_check_constraints(name)) for name in schema.metadata.tables
        }

    assert constraints(migrated) == constraints(created)
    assert constraints(migrated)["stamp"][1], "a comparison of nothing"
    migrated.dispose()
    created.dispose()


def test_the_newest_revision_is_the_one_that_the_tables_name(path: Path) -> None:
    migrate(url(path))
    engine = create_engine(url(path))

    with engine.connect() as connection:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_heads() == [schema.REVISION]
        assert schema.read_revision(connection) == schema.REVISION
    engine.dispose()


def test_a_stamp_has_a_single_row(path: Path) -> None:
    new_database(path)

    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        execute(path, "INSERT INTO stamp VALUES (2, 'store', 'kek', x'00', x'00')")


def test_the_file_is_only_its_owners_under_any_umask(path: Path) -> None:
    umask = os.umask(0)
    try:
        migrate(url(path))
    finally:
        os.umask(umask)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_keeps_a_write_ahead_log(path: Path) -> None:
    migrate(url(path))

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()

    migrate(url(path))

    assert tables(path) == {"alembic_version", *schema.metadata.tables}


def test_migrating_again_changes_nothing(path: Path) -> None:
    migrate(url(path))
    execute(path, "INSERT INTO ring_versions VALUES ('contoso', 1, x'00', x'00')")
    before = path.read_bytes()

    migrate(url(path))

    assert path.read_bytes() == before


def test_a_migration_that_fails_halfway_leaves_nothing_and_can_be_repeated(path: Path) -> None:
    def fail(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE TABLE private_keys" in statement:
            raise InterruptedError(statement)

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(InterruptedError):
            migrate(url(path))
    finally:
        event.remove(Engine, "before_cursor_execute", fail)
    assert tables(path) == set()

    migrate(url(path))

    assert tables(path) == {"alembic_version", *schema.metadata.tables}


def test_a_migration_holds_the_write_lock_from_the_look_at_the_revision_on(path: Path) -> None:
    refusals: list[str] = []

    def write(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if "sqlite_master" in statement or "CREATE TABLE" in statement:
            with closing(sqlite3.connect(path, timeout=0)) as other, pytest.raises(sqlite3.OperationalError) as locked:
                other.execute("BEGIN IMMEDIATE")
            refusals.append(str(locked.value))

    event.listen(Engine, "before_cursor_execute", write)
    try:
        migrate(url(path))
    finally:
        event.remove(Engine, "before_cursor_execute", write)

    assert set(refusals) == {"database is locked"}


def test_a_database_that_is_in_use_is_unavailable(path: Path) -> None:
    new_database(path)

    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="failed to migrate: database is locked"):
            migrate(url(path), lock_timeout=timedelta(0))


def test_a_database_that_something_else_made_is_refused_and_left_alone(path: Path) -> None:
    execute(path, "CREATE TABLE customers (name TEXT)")
    before = path.read_bytes()

    with pytest.raises(ConfigurationError, match=r"storage\.url names a database that something else .* made"):
        migrate(url(path))

    assert path.read_bytes() == before


def test_a_database_of_a_newer_keyturn_is_refused_and_left_alone(path: Path) -> None:
    new_database(path)
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()

    with pytest.raises(ConfigurationError, match=r"storage\.url .* revision 9999, .* none after 0001"):
        migrate(url(path))

    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("This is not a database, and of some length. " * 100)
    before = path.read_bytes()

    with pytest.raises(ConfigurationError, match=r"storage\.url: .*keyturn\.db is not a sound SQLite database"):
        migrate(url(path))

    assert path.read_bytes() == before


def test_a_folder_that_is_missing_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"storage\.url: .*/missing/keyturn\.db cannot be created: No such file"
    ):
        migrate(url(tmp_path / "missing" / "keyturn.db"))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"storage\.url: .* is not a file"):
        migrate(url(tmp_path))
