from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from keyturn_server.storage.sql import SqlStore
from tests.databases import new_database

OpenStore = Callable[..., SqlStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store is, or would be. Nothing else is in its folder."""
    return tmp_path / "keyturn.db"


@pytest.fixture
async def open_store(path: Path) -> AsyncIterator[OpenStore]:
    """Opens a store that soon gives up on a lock."""
    opened: list[SqlStore] = []

    def open_and_remember(url: str = f"sqlite:///{path}") -> SqlStore:
        opened.append(SqlStore.open(url, lock_timeout=timedelta(milliseconds=100)))
        return opened[-1]

    yield open_and_remember
    for store in opened:
        await store.close()


@pytest.fixture
def store(path: Path, open_store: OpenStore) -> SqlStore:
    """A store on a new database that was migrated."""
    new_database(path)
    return open_store()
