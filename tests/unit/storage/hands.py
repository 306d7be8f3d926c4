"""What the tests of the SQL store share: things to store, and another program's hands on the file."""

import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from keyturn_server.ports import SealedRing, Stamp, WrappedKey
from keyturn_server.storage.sql import SqlStore

PLANTED = b"PLANTED-KEY-BYTES"

USES: dict[str, Callable[[SqlStore], Awaitable[object]]] = {
    "check_schema": lambda store: store.check_schema(),
    "read_stamp": lambda store: store.read_stamp(),
    "write_stamp": lambda store: store.write_stamp(Stamp("store-1", "kek-1", b"canary", b"integrity key")),
    "newest_versions": lambda store: store.newest_versions(),
    "newest_rings": lambda store: store.newest_rings(["contoso"]),
    "append": lambda store: store.append(ring(1), add=[key("a")]),
    "wrapped_keys": lambda store: store.wrapped_keys("contoso"),
}
READS = ["check_schema", "read_stamp", "newest_versions", "newest_rings", "wrapped_keys"]
WRITES = ["write_stamp", "append"]


def ring(version: int, issuer: str = "contoso") -> SealedRing:
    return SealedRing(issuer, version, b"body", b"signature")


def key(kid: str, wrapped: bytes = PLANTED * 80) -> WrappedKey:
    return WrappedKey("contoso", kid, "kek-1", wrapped)


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection, that waits for no lock."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        yield connection


def damage(path: Path, first_byte: int) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(first_byte)
        file.write(b"\xff" * (size - first_byte))


def delete(path: Path) -> None:
    path.unlink()


def execute(path: Path, statement: str) -> None:
    with connected(path) as connection:
        connection.execute(statement)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
