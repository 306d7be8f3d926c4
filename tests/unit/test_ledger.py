import dataclasses

import pytest

from keyturn_server.domain.errors import RingChangedError, RowRefusedError
from keyturn_server.domain.ring_codec import encode_ring
from keyturn_server.ledger import Ledger
from keyturn_server.ports import SealedRing, WrappedKey
from keyturn_server.storage.memory import MemoryDatabase, MemoryStore
from tests.doubles import HmacSeal
from tests.rings import kid, new_ring

SEAL = HmacSeal()
RING = new_ring()
NEXT = dataclasses.replace(RING, version=2)


def ledger_of(database: MemoryDatabase) -> Ledger:
    return Ledger(MemoryStore(database), SEAL)


def sealed(issuer: str, version: int, body: bytes, *, seal: HmacSeal = SEAL) -> SealedRing:
    return SealedRing(issuer, version, body, seal.seal(body))


async def test_what_was_appended_is_read_back() -> None:
    ledger = ledger_of(MemoryDatabase())
    await ledger.append(RING)
    await ledger.append(NEXT)

    reading = await ledger.read(["contoso"])

    assert (reading.rings, reading.refused) == ({"contoso": NEXT}, {})
    assert await ledger.newest_versions() == {"contoso": 2}


async def test_an_issuer_without_a_ring_is_neither_given_nor_refused() -> None:
    reading = await ledger_of(MemoryDatabase()).read(["contoso"])

    assert (reading.rings, reading.refused) == ({}, {})


async def test_of_two_changes_of_one_version_only_the_first_is_made() -> None:
    database = MemoryDatabase()
    await ledger_of(database).append(RING)
    await ledger_of(database).append(NEXT)

    with pytest.raises(RingChangedError):
        await ledger_of(database).append(dataclasses.replace(NEXT, iss="https://other.example"))

    assert (await ledger_of(database).read(["contoso"])).rings == {"contoso": NEXT}


async def test_private_keys_come_and_go_with_the_version_that_names_them() -> None:
    database = MemoryDatabase()
    ledger = ledger_of(database)
    first, second = (WrappedKey("contoso", kid(number), "kek", b"wrapped") for number in range(2))
    await ledger.append(RING, add=[first])

    await ledger.append(NEXT, add=[second], remove=[first.kid])

    assert list(database.keys.values()) == [second]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            SealedRing("contoso", 1, encode_ring(RING).replace(b"contoso.example", b"attacks.example"), b"forged"),
            "not what the integrity key signed",
        ),
        (
            sealed("contoso", 1, encode_ring(RING), seal=HmacSeal(b"another secret")),
            "not what the integrity key signed",
        ),
        (sealed("contoso", 1, b"{}"), "not a ring of format 1"),
        (sealed("contoso", 1, encode_ring(NEXT)), r"its body is that of \(contoso, 2\)"),
        (
            sealed("contoso", 1, encode_ring(dataclasses.replace(RING, issuer="fabrikam"))),
            r"its body is that of \(fabrikam, 1\)",
        ),
    ],
    ids=["edited", "signed by another key", "no ring", "another version", "another issuer"],
)
async def test_a_row_that_is_not_what_was_written_is_refused_by_name(row: SealedRing, why: str) -> None:
    database = MemoryDatabase(rings={"contoso": [row]})

    reading = await ledger_of(database).read(["contoso"])

    assert reading.rings == {}
    with pytest.raises(RowRefusedError, match=why) as refused:
        raise reading.refused["contoso"]
    assert refused.value.row == "ring_versions (contoso, 1)"


async def test_a_refused_row_does_not_keep_the_others_from_being_read() -> None:
    fabrikam = dataclasses.replace(RING, issuer="fabrikam")
    database = MemoryDatabase(rings={"contoso": [SealedRing("contoso", 1, b"", b"")]})
    await ledger_of(database).append(fabrikam)

    reading = await ledger_of(database).read(["contoso", "fabrikam"])

    assert reading.rings == {"fabrikam": fabrikam}
    assert set(reading.refused) == {"contoso"}
