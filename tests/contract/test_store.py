"""What `Store` promises, asked of every store. A new one joins by its line in `STORES`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from keyturn_server.domain.errors import RefusedError, RingChangedError, UnavailableError
from keyturn_server.ports import SealedRing, Stamp, Store, WrappedKey
from keyturn_server.storage.memory import MemoryDatabase, MemoryStore
from keyturn_server.storage.sql import SqlStore
from tests.databases import new_database

Open = Callable[[], Store]

STAMP = Stamp("store-1", "kek-1", b"\x00canary\xff", b"\x00integrity key\xff")
REPLICAS = range(8)


def memory_stores(folder: Path) -> Open:
    database = MemoryDatabase()
    return lambda: MemoryStore(database)


def sqlite_stores(folder: Path) -> Open:
    url = new_database(folder / "keyturn.db")
    return lambda: SqlStore.open(url)


STORES = {"memory": memory_stores, "sqlite": sqlite_stores}


@pytest.fixture(params=STORES)
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one more store on the same new database."""
    open_one = STORES[request.param](tmp_path)
    opened: list[Store] = []

    def open_and_remember() -> Store:
        opened.append(open_one())
        return opened[-1]

    yield open_and_remember
    for store in opened:
        await store.close()


@pytest.fixture
def store(open_store: Open) -> Store:
    return open_store()


def ring(version: int, issuer: str = "contoso", body: bytes = b"\x00body\xff") -> SealedRing:
    return SealedRing(issuer, version, body, b"\x00signature\xff" + bytes([version]))


def key(kid: str, issuer: str = "contoso") -> WrappedKey:
    return WrappedKey(issuer, kid, "kek-1", b"\x00wrapped\xff" + f"{issuer} {kid}".encode())


async def contents(store: Store) -> tuple[object, ...]:
    versions = await store.newest_versions()
    keys = {issuer: await store.wrapped_keys(issuer) for issuer in versions}
    return versions, await store.newest_rings(versions.keys()), keys


async def test_a_new_store_has_no_stamp_no_rings_and_no_keys(store: Store) -> None:
    assert await store.read_stamp() is None
    assert await store.newest_versions() == {}
    assert await store.newest_rings(["contoso"]) == []
    assert await store.wrapped_keys("contoso") == []


async def test_the_stamp_is_read_back_as_it_was_written(store: Store) -> None:
    await store.write_stamp(STAMP)

    assert await store.read_stamp() == STAMP


async def test_a_store_is_stamped_only_once(store: Store) -> None:
    await store.write_stamp(STAMP)

    with pytest.raises(RefusedError, match="already") as refused:
        await store.write_stamp(Stamp("store-2", "kek-2", b"canary", b"integrity key"))

    assert refused.value.reason == "STORE_STAMPED"
    assert await store.read_stamp() == STAMP


async def test_of_replicas_that_stamp_a_store_at_once_one_does(open_store: Open) -> None:
    stamps = [Stamp(f"store-{replica}", "kek-1", b"canary", b"integrity key") for replica in REPLICAS]
    stores = [open_store() for _ in REPLICAS]

    outcomes = await asyncio.gather(
        *(store.write_stamp(stamp) for store, stamp in zip(stores, stamps, strict=True)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes if outcome] == [RefusedError] * 7
    assert await stores[0].read_stamp() == stamps[outcomes.index(None)]


async def test_a_ring_is_read_back_as_it_was_appended(store: Store) -> None:
    await store.append(ring(1))

    assert await store.newest_rings(["contoso"]) == [ring(1)]


async def test_only_the_newest_version_of_each_ring_is_read(store: Store) -> None:
    for version in range(1, 12):
        await store.append(ring(version))
    await store.append(ring(1, "fabrikam"))

    assert await store.newest_versions() == {"contoso": 11, "fabrikam": 1}
    assert await store.newest_rings(["contoso", "fabrikam"]) == [ring(11), ring(1, "fabrikam")]


async def test_rings_come_in_the_order_of_their_issuers_and_only_those_asked_for(store: Store) -> None:
    for issuer in ["fabrikam", "contoso", "Zava", "adatum"]:
        await store.append(ring(1, issuer))

    rings = await store.newest_rings(["fabrikam", "unknown", "Zava", "contoso", "fabrikam"])

    assert [ring.issuer for ring in rings] == ["Zava", "contoso", "fabrikam"]
    assert await store.newest_rings([]) == []


@pytest.mark.parametrize("version", [0, 1, 2, 3, 5])
async def test_a_version_that_does_not_follow_the_newest_is_refused_and_changes_nothing(
    store: Store, version: int
) -> None:
    await store.append(ring(1), add=[key("a")])
    await store.append(ring(2))
    await store.append(ring(3))
    before = await contents(store)

    with pytest.raises(RingChangedError) as refused:
        await store.append(ring(version, body=b"other"), add=[key("b")], remove=["a"])

    assert refused.value.metadata == {"issuer": "contoso", "expected_ring_version": str(version - 1)}
    assert await contents(store) == before


@pytest.mark.parametrize("version", [0, 2])
async def test_the_first_version_of_a_ring_is_1(store: Store, version: int) -> None:
    with pytest.raises(RingChangedError):
        await store.append(ring(version))

    assert await store.newest_versions() == {}


@pytest.mark.parametrize("replicas_of_one_store", [1, 8])
async def test_of_replicas_that_append_the_same_version_at_once_one_does(
    open_store: Open, replicas_of_one_store: int
) -> None:
    stores = [open_store() for _ in range(8 // replicas_of_one_store)]
    await stores[0].append(ring(1))

    outcomes = await asyncio.gather(
        *(
            stores[replica % len(stores)].append(ring(2, body=bytes([replica])), add=[key(f"of-{replica}")])
            for replica in REPLICAS
        ),
        return_exceptions=True,
    )

    winner = outcomes.index(None)
    assert [type(outcome) for outcome in outcomes if outcome] == [RingChangedError] * 7
    assert await stores[0].newest_rings(["contoso"]) == [ring(2, body=bytes([winner]))]
    assert await stores[0].wrapped_keys("contoso") == [key(f"of-{winner}")]


async def test_changes_of_different_rings_at_once_are_all_made(store: Store) -> None:
    issuers = [f"issuer-{replica}" for replica in REPLICAS]

    await asyncio.gather(*(store.append(ring(1, issuer), add=[key("a", issuer)]) for issuer in issuers))

    assert await store.newest_versions() == dict.fromkeys(issuers, 1)


async def test_keys_come_in_the_order_of_their_kids(store: Store) -> None:
    await store.append(ring(1), add=[key("b"), key("a")])
    await store.append(ring(2), add=[key("Z"), key("_")])

    assert await store.wrapped_keys("contoso") == [key("Z"), key("_"), key("a"), key("b")]


async def test_one_version_adds_and_removes_keys(store: Store) -> None:
    await store.append(ring(1), add=[key("a"), key("b"), key("c")])

    await store.append(ring(2), add=[key("d")], remove={"a", "c"})

    assert await store.wrapped_keys("contoso") == [key("b"), key("d")]


async def test_removing_a_key_that_is_not_there_is_harmless(store: Store) -> None:
    await store.append(ring(1), add=[key("a")])
    await store.append(ring(2), remove=["a"])

    await store.append(ring(3), remove=["a", "never-there"])

    assert await store.wrapped_keys("contoso") == []
    assert await store.newest_versions() == {"contoso": 3}


async def test_issuers_do_not_touch_each_other_even_with_the_same_kid(store: Store) -> None:
    await store.append(ring(1), add=[key("a")])
    await store.append(ring(1, "fabrikam"), add=[key("a", "fabrikam"), key("b", "fabrikam")])

    await store.append(ring(2), remove=["a", "b"])

    assert await store.wrapped_keys("contoso") == []
    assert await store.wrapped_keys("fabrikam") == [key("a", "fabrikam"), key("b", "fabrikam")]
    assert await store.newest_versions() == {"contoso": 2, "fabrikam": 1}

    await store.append(ring(2, "fabrikam"), remove=["b"])

    assert await store.wrapped_keys("fabrikam") == [key("a", "fabrikam")]


@pytest.mark.parametrize(
    "added",
    [[key("b"), key("a")], [key("b"), key("b")], [key("removed")]],
    ids=["a kid that is there", "one kid twice", "a kid that was removed"],
)
async def test_a_kid_is_stored_only_once_ever_and_a_refused_key_undoes_the_whole_change(
    store: Store, added: list[WrappedKey]
) -> None:
    await store.append(ring(1), add=[key("a"), key("c"), key("removed")])
    await store.append(ring(2), remove=["removed"])
    before = await contents(store)

    with pytest.raises(RefusedError, match="contoso has or had a private key") as refused:
        await store.append(ring(3), add=added, remove=["c"])

    assert refused.value.reason == "KEY_EXISTS"
    assert await contents(store) == before


async def test_a_ring_cannot_bring_a_key_of_another_issuer(store: Store) -> None:
    with pytest.raises(ValueError, match="contoso"):
        await store.append(ring(1), add=[key("a", "fabrikam")])

    assert await store.newest_versions() == {}


async def test_every_store_on_a_database_sees_what_another_one_did(open_store: Open) -> None:
    first, second = open_store(), open_store()
    assert await second.newest_versions() == {}

    await first.write_stamp(STAMP)
    await first.append(ring(1), add=[key("a")])
    await second.append(ring(2), add=[key("b")], remove=["a"])

    assert await second.read_stamp() == STAMP
    assert await contents(first) == ({"contoso": 2}, [ring(2)], {"contoso": [key("b")]})


async def test_what_was_stored_outlives_the_store(open_store: Open) -> None:
    store = open_store()
    await store.write_stamp(STAMP)
    await store.append(ring(1), add=[key("a")])
    await store.close()

    reopened = open_store()

    assert await reopened.read_stamp() == STAMP
    assert await contents(reopened) == ({"contoso": 1}, [ring(1)], {"contoso": [key("a")]})


USES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "read_stamp": lambda store: store.read_stamp(),
    "write_stamp": lambda store: store.write_stamp(STAMP),
    "newest_versions": lambda store: store.newest_versions(),
    "newest_rings": lambda store: store.newest_rings(["contoso"]),
    "append": lambda store: store.append(ring(1)),
    "wrapped_keys": lambda store: store.wrapped_keys("contoso"),
}


@pytest.mark.parametrize("use", USES)
async def test_a_closed_store_is_unavailable(open_store: Open, use: str) -> None:
    store = open_store()
    await store.newest_versions()
    await store.close()
    await store.close()

    with pytest.raises(UnavailableError, match="closed") as refused:
        await USES[use](store)

    assert refused.value.reason == "STORE_UNAVAILABLE"
