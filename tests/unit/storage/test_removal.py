"""Removed keys are gone from the disk, not only from the answers."""

import random
import re
from pathlib import Path

from keyturn_server.storage.sql import SqlStore
from tests.unit.storage.hands import PLANTED, connected, everything_in, key, ring


async def test_removed_keys_are_in_no_byte_of_any_file(path: Path, store: SqlStore) -> None:
    await store.append(ring(1), add=[key("a")])
    assert PLANTED in b"".join(everything_in(path.parent).values())

    await store.append(ring(2), remove=["a"])

    assert PLANTED not in b"".join(everything_in(path.parent).values())


async def test_a_removed_key_leaves_as_many_zeros(path: Path, store: SqlStore) -> None:
    await store.append(ring(1), add=[key("a", b"12345"), key("b")])

    await store.append(ring(2), remove=["a"])

    with connected(path) as connection:
        rows = connection.execute("SELECT kid, wrapped, removed FROM private_keys ORDER BY kid").fetchall()
    assert rows == [("a", bytes(5), 1), ("b", key("b").wrapped, 0)]


async def test_no_copy_of_a_removed_key_stays_where_the_database_moved_rows(path: Path, store: SqlStore) -> None:
    # A history in which SQLite would leave a copy of a row that was deleted; see `schema.private_keys`.
    choose = random.Random(64)
    stored: list[str] = []
    removed: set[bytes] = set()
    for version in range(1, 13):
        gone = choose.sample(stored, min(len(stored), choose.randint(0, 9)))
        new = [f"{version:03}-{number}" for number in range(choose.randint(0, 9))]
        added = [key(kid, f"<KEY {kid}>".encode() * choose.choice([25, 400])) for kid in new]

        await store.append(ring(version), add=added, remove=gone)

        stored = [kid for kid in stored if kid not in gone] + new
        removed |= {f"<KEY {kid}>".encode() for kid in gone}

        found = set(re.findall(rb"<KEY \d{3}-\d>", b"".join(everything_in(path.parent).values())))
        assert found & removed == set()
    assert len(removed) > 20


async def test_a_reader_in_the_way_delays_the_clearing_of_the_log_to_the_next_change(
    path: Path, store: SqlStore
) -> None:
    await store.append(ring(1), add=[key("a")])
    with connected(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM stamp").fetchall()

        await store.append(ring(2), remove=["a"])

        assert await store.wrapped_keys("contoso") == []
        assert PLANTED in b"".join(everything_in(path.parent).values()), "nothing is in the way"

    await store.append(ring(3))

    assert PLANTED not in b"".join(everything_in(path.parent).values())


async def test_a_change_that_removes_nothing_leaves_the_log_alone(path: Path, store: SqlStore) -> None:
    await store.append(ring(1), add=[key("a")])
    await store.append(ring(2), remove=["a"])
    assert everything_in(path.parent)["keyturn.db-wal"] == b""

    await store.append(ring(3))

    assert everything_in(path.parent)["keyturn.db-wal"] != b""
