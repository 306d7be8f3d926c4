"""The store in a SQL database: one set of statements, in SQLAlchemy Core."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import and_, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyturn_server.domain.errors import RefusedError, RingChangedError, UnavailableError
from keyturn_server.ports import SealedRing, Stamp, WrappedKey
from keyturn_server.storage import schema, sqlite

# Far below the number of variables that a statement may have, in either database.
_ISSUERS_PER_STATEMENT = 500

_rings = schema.ring_versions.c
_keys = schema.private_keys.c

# The primary key's index answers it, without a look at the bodies.
NEWEST_VERSIONS = select(_rings.issuer, func.max(_rings.version).label("version")).group_by(_rings.issuer)


class SqlStore:
    """Implements `Store` on a schema that `migrate` made.

    It never creates a file or a table: see `check_schema`, which precedes the first use of any kind. A write that is
    cancelled was made or not made, as with a connection that is lost.
    """

    def __init__(self, path: Path, engine: AsyncEngine) -> None:
        self._path = path
        self._engine = engine
        self._writing_engine = engine.execution_options(**sqlite.WRITES)
        self._is_checked = False
        self._is_closed = False
        self._removals = 0
        self._removals_cleared = 0

    @classmethod
    def open(cls, url: str, *, lock_timeout: timedelta = sqlite.LOCK_TIMEOUT) -> Self:
        """The store that `storage.url` names. Nothing is opened before the first use; it must be closed.

        Raises `ConfigurationError` for a URL that names no SQLite file.
        """
        path = sqlite.database_file(url)
        return cls(path, sqlite.async_engine(path, lock_timeout))

    async def check_schema(self) -> None:
        """Makes sure that there is a database and that its schema is this package's; if not, it changes nothing.

        Every other method does so before its first use of the database. A service does it to fail at its start.

        Raises `ConfigurationError` with what to do, or `UnavailableError` when that cannot be told now.
        """
        if self._is_closed:
            raise UnavailableError("the store is closed", reason="STORE_UNAVAILABLE")
        sqlite.check_file(self._path)
        with sqlite.unavailable("check its schema"), sqlite.refusing_damage(self._path):
            async with self._engine.connect() as connection:
                await connection.run_sync(schema.check_revision)
                # A backup that VACUUM INTO made has lost this.
                await connection.exec_driver_sql(sqlite.USE_WRITE_AHEAD_LOG)
        self._is_checked = True

    async def read_stamp(self) -> Stamp | None:
        async with self._reading("read its stamp") as connection:
            row = (await connection.execute(select(schema.stamp))).one_or_none()
        return None if row is None else Stamp(row.store_id, row.kek_id, _bytes(row.canary), _bytes(row.integrity_key))

    async def write_stamp(self, stamp: Stamp) -> None:
        async with self._writing("write its stamp") as connection:
            try:
                await connection.execute(insert(schema.stamp).values(id=1, **asdict(stamp)))
            except IntegrityError as error:
                raise RefusedError("the store is stamped already", reason="STORE_STAMPED") from error

    async def newest_versions(self) -> Mapping[str, int]:
        async with self._reading("read the versions of its rings") as connection:
            rows = (await connection.execute(NEWEST_VERSIONS)).all()
        return {row.issuer: row.version for row in rows}

    async def newest_rings(self, issuers: Collection[str]) -> Sequence[SealedRing]:
        # Sorted here, because databases differ in how they sort text.
        wanted = sorted(set(issuers))
        rings: list[SealedRing] = []
        async with self._reading("read rings") as connection:
            for start in range(0, len(wanted), _ISSUERS_PER_STATEMENT):
                newest = NEWEST_VERSIONS.where(
                    _rings.issuer.in_(wanted[start : start + _ISSUERS_PER_STATEMENT])
                ).subquery()
                statement = select(schema.ring_versions).join(
                    newest, and_(newest.c.issuer == _rings.issuer, newest.c.version == _rings.version)
                )
                rows = (await connection.execute(statement)).all()
                rings += (SealedRing(row.issuer, row.version, _bytes(row.body), _bytes(row.signature)) for row in rows)
        return sorted(rings, key=lambda ring: ring.issuer)

    async def append(self, ring: SealedRing, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        """As `Store` has it. Removed keys are overwritten in the database and cleared from its log.

        Raises `RefusedError` for a kid that the issuer has, or had: a key that was removed never comes back.
        """
        if any(key.issuer != ring.issuer for key in add):
            raise ValueError(f"a key of another issuer cannot come with a ring of {ring.issuer}")
        try:
            async with self._writing("append a version of a ring") as connection:
                await _append_version(connection, ring)
                if remove:
                    await _remove_keys(connection, ring.issuer, remove)
                if add:
                    await _add_keys(connection, add)
        finally:
            # Whatever failed: it may have been committed.
            self._removals += bool(remove)
        if self._removals_cleared < self._removals:
            await self._clear_log()

    async def wrapped_keys(self, issuer: str) -> Sequence[WrappedKey]:
        async with self._reading("read private keys") as connection:
            rows = (
                await connection.execute(select(schema.private_keys).where(_keys.issuer == issuer, ~_keys.removed))
            ).all()
        keys = (WrappedKey(row.issuer, row.kid, row.kek_id, _bytes(row.wrapped)) for row in rows)
        return sorted(keys, key=lambda key: key.kid)

    async def close(self) -> None:
        self._is_closed = True
        await self._engine.dispose()

    async def _clear_log(self) -> None:
        # Where a reader is in the way, the next append tries again. What is removed meanwhile clears the log itself.
        removals = self._removals
        async with self._reading("clear removed keys from its log") as connection:
            if await sqlite.clear_log(connection):
                self._removals_cleared = max(self._removals_cleared, removals)

    @asynccontextmanager
    async def _reading(self, doing: str) -> AsyncIterator[AsyncConnection]:
        await self._check_usable()
        with sqlite.unavailable(doing):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self, doing: str) -> AsyncIterator[AsyncConnection]:
        await self._check_usable()
        with sqlite.unavailable(doing):
            async with self._writing_engine.begin() as connection:
                yield connection

    async def _check_usable(self) -> None:
        if self._is_closed or not self._is_checked:
            await self.check_schema()


def _bytes(value: object) -> bytes:
    """A column of bytes. SQLite keeps the type of what a hand has written: text stands for its bytes, to be refused
    as such.
    """
    return value if isinstance(value, bytes) else str(value).encode()


async def _append_version(connection: AsyncConnection, ring: SealedRing) -> None:
    # The insert comes first: its primary key lets one of two racing changes through, in every database.
    try:
        await connection.execute(insert(schema.ring_versions).values(asdict(ring)))
    except IntegrityError as error:
        raise RingChangedError(ring.issuer, ring.version - 1) from error
    previous = select(func.max(_rings.version)).where(_rings.issuer == ring.issuer, _rings.version != ring.version)
    if (await connection.scalar(previous) or 0) != ring.version - 1:
        raise RingChangedError(ring.issuer, ring.version - 1)


async def _remove_keys(connection: AsyncConnection, issuer: str, kids: Collection[str]) -> None:
    """Overwrites the bytes of keys where they stand: as many zeros, so that the row keeps its place in the file."""
    mine = and_(_keys.issuer == issuer, _keys.kid.in_(kids))
    lengths = (
        await connection.execute(select(_keys.kid, func.length(_keys.wrapped).label("length")).where(mine))
    ).all()
    for row in lengths:
        await connection.execute(
            update(schema.private_keys)
            .where(_keys.issuer == issuer, _keys.kid == row.kid)
            .values(wrapped=bytes(row.length), removed=True)
        )


async def _add_keys(connection: AsyncConnection, keys: Sequence[WrappedKey]) -> None:
    try:
        await connection.execute(insert(schema.private_keys), [asdict(key) | {"removed": False} for key in keys])
    except IntegrityError as error:
        raise RefusedError(
            f"issuer {keys[0].issuer} has or had a private key {' or '.join(key.kid for key in keys)}",
            reason="KEY_EXISTS",
        ) from error
