"""Creates and upgrades the schema of a store. The service itself never does: an operator's command does."""

from datetime import timedelta

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect

from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.storage import sqlite
from keyturn_server.storage.schema import REVISION, newer_revision, read_revision


def migrate(url: str, *, lock_timeout: timedelta = sqlite.LOCK_TIMEOUT) -> None:
    """Brings the store that `storage.url` names to this package's schema, creating its file when there is none.

    All of it happens in one transaction, and nothing where the schema is right already. The file that it creates is
    readable by its owner alone.

    Raises `ConfigurationError` for a URL, a folder or a file that cannot be used, for a database of a newer keyturn
    and for one that something else made; `UnavailableError` when the database is locked or the disk fails.
    """
    path = sqlite.database_file(url)
    sqlite.create_file(path)
    sqlite.check_file(path)
    engine = sqlite.sync_engine(path, lock_timeout)
    try:
        with sqlite.unavailable("migrate"), sqlite.refusing_damage(path):
            # The revision is read under the write lock, so that of two migrations at once one finds nothing to do.
            with engine.execution_options(**sqlite.WRITES).begin() as connection:
                _check_origin(connection)
                command.upgrade(alembic_config(connection), "head")
            with engine.connect() as connection:
                connection.exec_driver_sql(sqlite.USE_WRITE_AHEAD_LOG)
    finally:
        engine.dispose()


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for the migrations of this package, on an open connection."""
    config = Config()
    config.set_main_option("script_location", "keyturn_server.storage:migrations")
    config.attributes["connection"] = connection
    return config


def _check_origin(connection: Connection) -> None:
    found = read_revision(connection)
    if found is None and inspect(connection).get_table_names():
        raise ConfigurationError(
            "storage.url names a database that something else than keyturn made: correct the URL, or name a new file"
        )
    if found is not None and found > REVISION:
        raise newer_revision(found)
