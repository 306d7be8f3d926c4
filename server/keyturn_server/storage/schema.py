"""The tables, in terms that SQLite and PostgreSQL share, and the check that a database has exactly these.

A change here is a new revision: a file in `migrations/versions` that leads to it, and its number in `REVISION`.
"""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    inspect,
    select,
)

from keyturn_server.domain.errors import ConfigurationError

REVISION = "0001"
"""The revision that `metadata` describes. Revisions are numbered, so that an older one sorts before a newer one."""

# Constraints have names, because a later migration can only alter what it can name.
metadata = MetaData(naming_convention={"ck": "ck_%(table_name)s_%(constraint_name)s", "pk": "pk_%(table_name)s"})

stamp = Table(
    "stamp",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="single_row"), primary_key=True, autoincrement=False),
    Column("store_id", String, nullable=False),
    Column("kek_id", String, nullable=False),
    Column("canary", LargeBinary, nullable=False),
    Column("integrity_key", LargeBinary, nullable=False),
)

ring_versions = Table(
    "ring_versions",
    metadata,
    Column("issuer", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)

# A key that is removed keeps its row, with zeros for its bytes. SQLite zeroes what it frees, but when it moves rows to
# other pages it leaves copies behind; rows that are only appended and never change their length are never moved.
private_keys = Table(
    "private_keys",
    metadata,
    Column("issuer", String, primary_key=True),
    Column("kid", String, primary_key=True),
    Column("kek_id", String, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("removed", Boolean, nullable=False),
)

# Alembic's own record. It is read here without Alembic, whose import costs a starting service half a second.
_alembic_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def read_revision(connection: Connection) -> str | None:
    """The revision of a database's schema. None: no migration ever ran in it."""
    if not inspect(connection).has_table(_alembic_version.name):
        return None
    return connection.scalar(select(_alembic_version.c.version_num))


def check_revision(connection: Connection) -> None:
    """Raises `ConfigurationError`, with what to do, unless the schema is of this package's revision."""
    found = read_revision(connection)
    if found is None:
        raise ConfigurationError(
            "storage.url names a database that was never set up as a store: `keyturn init` creates one; if there "
            "should be one already, correct the URL"
        )
    if found < REVISION:
        raise ConfigurationError(
            f"storage.url names a store of schema revision {found}, and this keyturn needs {REVISION}: "
            "run `keyturn migrate`"
        )
    if found != REVISION:
        raise newer_revision(found)


def newer_revision(found: str) -> ConfigurationError:
    """The error for a database whose revision this package does not know."""
    return ConfigurationError(
        f"storage.url names a database of schema revision {found}, and this keyturn knows none after {REVISION}: "
        "start the newer keyturn that migrated it, or correct the URL"
    )
