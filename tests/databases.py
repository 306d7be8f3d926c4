"""A migrated SQLite database without the time that a migration takes."""

import functools
import tempfile
from pathlib import Path
from urllib.parse import quote

from keyturn_server.storage.migrate import migrate


def new_database(path: Path) -> str:
    """Puts a database at `path` that was just migrated, and returns its URL."""
    path.touch(0o600)
    path.write_bytes(_migrated_database())
    return f"sqlite:///{quote(str(path))}"


@functools.cache
def _migrated_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        migrate(f"sqlite:///{folder}/keyturn.db")
        return Path(folder, "keyturn.db").read_bytes()
