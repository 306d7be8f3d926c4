import threading
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
    """Opens a store that soon gives up on a lock, unless it is told otherwise."""
    opened: list[SqlStore] = []

    def open_and_remember(
        url: str = f"sqlite:///{path}", lock_timeout: timedelta = timedelta(milliseconds=100)
    ) -> SqlStore:
        opened.append(SqlStore.open(url, lock_timeout=lock_timeout))
        return opened[-1]

    yield open_and_remember
    for store in opened:
        await store.close()
    # The driver does not wait for the thread of a connection that it could not open, or that was cancelled.
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            thread.join(timeout=5)


@pytest.fixture
def store(path: Path, open_store: OpenStore) -> SqlStore:
    """A store on a new database that was migrated."""
    new_database(path)
    return open_store()
