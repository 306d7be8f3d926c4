"""What is particular to SQLite: its file and URL, its pragmas, how its transactions begin, and how it fails."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from keyturn_server.domain.errors import ConfigurationError, UnavailableError

LOCK_TIMEOUT = timedelta(seconds=5)
"""How long a statement waits for another connection's lock before it fails."""

WRITES = {"keyturn_writes": True}
"""The execution options of an engine whose transactions write."""

USE_WRITE_AHEAD_LOG = "PRAGMA journal_mode = WAL"
"""Readers and the writer then do not wait for each other. It changes the file and is kept in it, so it is for a file
that is known to be a store, and stands outside a transaction.
"""

# A commit is on the disk when it returns, and what is deleted is overwritten with zeros.
_PRAGMAS = ("PRAGMA synchronous = FULL", "PRAGMA secure_delete = ON", "PRAGMA foreign_keys = ON")


def database_file(url: str) -> Path:
    """The file that a `storage.url` names, as an absolute path; in the URL it is percent-encoded.

    Raises `ConfigurationError` for any other URL, and does not repeat it: the URL of a server holds a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("storage.url is not a URL such as sqlite:////var/lib/keyturn/keyturn.db") from None
    if parsed.drivername != "sqlite":
        raise ConfigurationError(
            f"storage.url: {parsed.drivername} is not supported; a store is a SQLite file, such as "
            "sqlite:////var/lib/keyturn/keyturn.db"
        )
    if parsed.host or parsed.query or parsed.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "storage.url must name a file and nothing else: sqlite:///FOLDER/FILE from the working directory, "
            "sqlite:////FOLDER/FILE from the root"
        )
    return Path(str(parsed.database)).absolute()


def create_file(path: Path) -> None:
    """Creates the empty file that SQLite will fill, readable by its owner alone; one that exists is left alone.

    SQLite itself would create it with the permissions of the umask, and gives those of the file to the log beside it.
    """
    # An existing file is never opened here: to close it again would drop the locks that SQLite holds on it for this
    # process.
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise ConfigurationError(f"storage.url: {path} cannot be created: {error.strerror}") from error


def check_file(path: Path) -> None:
    """Raises `ConfigurationError` unless there is a file that this user may read and write."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(
            f"storage.url: {path}: {error.strerror}; `keyturn init` creates a store; if there should be one already, "
            "correct the URL"
        ) from error
    if not is_file:
        raise ConfigurationError(f"storage.url: {path} is not a file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise ConfigurationError(f"storage.url: this user may not both read and write {path}")


def sync_engine(path: Path, lock_timeout: timedelta) -> Engine:
    engine = create_engine(_engine_url(path, "sqlite+pysqlite"), **_engine_options(lock_timeout))
    _configure(engine)
    return engine


def async_engine(path: Path, lock_timeout: timedelta) -> AsyncEngine:
    engine = create_async_engine(_engine_url(path, "sqlite+aiosqlite"), **_engine_options(lock_timeout))
    _configure(engine.sync_engine)
    return engine


async def clear_log(connection: AsyncConnection) -> bool:
    """Moves the write-ahead log into the database and empties it. False: another connection was in the way."""
    busy = (await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).scalar_one()
    return not busy


@contextmanager
def unavailable(doing: str) -> Iterator[None]:
    """Turns the failures that may pass, and those of a damaged file, into `UnavailableError`."""
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error, OperationalError | InterfaceError) and not _is_damage(error):
            raise
        # The driver's own words: they name tables and files, never a value.
        raise UnavailableError(
            f"the store of storage.url failed to {doing}: {error.orig}", reason="STORE_UNAVAILABLE"
        ) from error
    except PoolTimeoutError as error:
        raise UnavailableError(
            f"the store of storage.url failed to {doing}: every connection is in use", reason="STORE_UNAVAILABLE"
        ) from error


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turns what SQLite says of a file that is no database, or no longer one, into `ConfigurationError`."""
    try:
        yield
    except DBAPIError as error:
        if not _is_damage(error):
            raise
        raise ConfigurationError(
            f"storage.url: {path} is not a sound SQLite database ({error.orig}): correct the URL, or restore a backup"
        ) from error


def _is_damage(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _engine_url(path: Path, driver: str) -> URL:
    # Mode rw, unlike the default, does not create a file that is missing.
    return URL.create(driver, database=f"file:{quote(str(path))}", query={"uri": "true", "mode": "rw"})


def _engine_options(lock_timeout: timedelta) -> Mapping[str, Any]:
    return {
        # The driver must not begin transactions by itself; `_configure` does.
        "connect_args": {"isolation_level": None, "timeout": lock_timeout.total_seconds()},
        "pool_timeout": lock_timeout.total_seconds(),
        "hide_parameters": True,  # they hold wrapped keys, and would be in the text of each error
    }


def _configure(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # The write lock from the outset: a transaction that asks for it halfway fails at once when another one has
        # written, without waiting. Each read is one statement and needs no transaction.
        if WRITES.items() <= connection.get_execution_options().items():
            connection.exec_driver_sql("BEGIN IMMEDIATE")
