"""Every column of every row of the store, edited by hand: refused with the row named, or harmless."""

import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from keyturn_server.app import unlock
from keyturn_server.config import load_configuration
from keyturn_server.crypto.rsa_keys import RsaPrivateKeys
from keyturn_server.domain.errors import ConfigurationError, KeyturnError
from keyturn_server.domain.ring import signer, standby
from keyturn_server.ledger import Ledger
from keyturn_server.maintenance import Maintenance
from keyturn_server.process import SystemClock
from keyturn_server.rings import Rings
from keyturn_server.rotation import Rotation
from keyturn_server.signers import Signers
from keyturn_server.storage.sql import SqlStore
from tests.integration.deployment import Deployment


@dataclass
class Replica:
    """What a service holds behind its listeners."""

    rings: Rings
    signers: Signers
    maintenance: Maintenance

    def can_sign(self) -> bool:
        try:
            ring = self.rings.current("contoso")
            key = signer(ring, SystemClock().now())
            return key is not None and self.signers.find("contoso", key.kid).sign(b"{}").count(".") == 2
        except KeyturnError:
            return False


@asynccontextmanager
async def replica(config: Path) -> AsyncIterator[Replica]:
    configuration = load_configuration(config, {})
    store = SqlStore.open(configuration.storage.url)
    try:
        kek, seal = await unlock(configuration, store)
        keys, clock, ledger = RsaPrivateKeys(kek), SystemClock(), Ledger(store, seal)
        signers = Signers(store, keys)
        rings = Rings(ledger, signers, clock)
        yield Replica(rings, signers, Maintenance(rings, Rotation(ledger, rings, keys, clock, random.random)))
    finally:
        await store.close()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment whose ring has two versions and whose standby is dated."""
    return Deployment(tmp_path_factory.mktemp("origin") / "keyturn").folder


@pytest.fixture
async def folder(origin: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "keyturn"
    shutil.copytree(origin, copied)
    async with replica(copied / "keyturn.toml") as first:
        await first.maintenance.step()
    return copied


def edit(folder: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(folder / "keyturn.db") as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def column(folder: Path, statement: str) -> Any:
    with sqlite3.connect(folder / "keyturn.db") as connection:
        value = connection.execute(statement).fetchone()[0]
    connection.close()
    return value


def flipped(value: bytes) -> bytes:
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]


@pytest.mark.parametrize("column_", ["store_id", "kek_id", "canary", "integrity_key"])
async def test_an_edited_stamp_stops_the_start_and_names_its_column(folder: Path, column_: str) -> None:
    value = column(folder, f"SELECT {column_} FROM stamp")
    edit(folder, f"UPDATE stamp SET {column_} = ?", flipped(value) if isinstance(value, bytes) else "other")
    with pytest.raises(ConfigurationError, match="stamp"):
        async with replica(folder / "keyturn.toml"):
            pass


async def test_a_store_without_its_stamp_is_not_started_on(folder: Path) -> None:
    edit(folder, "DELETE FROM stamp")
    with pytest.raises(ConfigurationError, match="never set up"):
        async with replica(folder / "keyturn.toml"):
            pass


NEWEST = "WHERE version = (SELECT max(version) FROM ring_versions)"

REFUSED_RINGS = {
    "body": ("UPDATE ring_versions SET body = replace(body, 'contosohelp.com', 'contosohelp.org') " + NEWEST),
    "signature": f"UPDATE ring_versions SET signature = zeroblob(64) {NEWEST}",
    "version, newest raised": f"UPDATE ring_versions SET version = 99 {NEWEST}",
    "version, oldest raised": "UPDATE ring_versions SET version = 99 WHERE version = 1",
    "issuer": f"UPDATE ring_versions SET issuer = 'fabrikam' {NEWEST}",
    "body of an older version": (
        "UPDATE ring_versions SET (body, signature) = (SELECT body, signature FROM ring_versions WHERE version = 1) "
        + NEWEST
    ),
    "body that is no ring": f"UPDATE ring_versions SET body = x'7b7d' {NEWEST}",
}


@pytest.mark.parametrize("statement", REFUSED_RINGS.values(), ids=REFUSED_RINGS.keys())
async def test_an_edited_newest_ring_is_refused_and_named(folder: Path, statement: str) -> None:
    edit(folder, statement)
    async with replica(folder / "keyturn.toml") as started:
        with capture_logs() as logs:
            await started.maintenance.step()
        refused = [line for line in logs if line["event"] == "ring refused"]
        assert refused
        assert refused[0]["row"].startswith("ring_versions (")
        assert str(refused[0]["row"]).endswith((", 2)", ", 99)"))


HARMLESS = {
    "body of an old version": "UPDATE ring_versions SET body = x'00' WHERE version = 1",
    "signature of an old version": "UPDATE ring_versions SET signature = x'00' WHERE version = 1",
    "an old version lost": "DELETE FROM ring_versions WHERE version = 1",
    "a private key of nobody": "INSERT INTO private_keys (issuer, kid, kek_id, wrapped, removed) "
    "VALUES ('contoso', 'stranger', 'kek', x'00', 0)",
}


@pytest.mark.parametrize("statement", HARMLESS.values(), ids=HARMLESS.keys())
async def test_what_is_edited_elsewhere_changes_nothing(folder: Path, statement: str) -> None:
    async with replica(folder / "keyturn.toml") as before:
        await before.maintenance.step()
        edit(folder, statement)
        await before.maintenance.step()
        async with replica(folder / "keyturn.toml") as after:
            await after.maintenance.step()
            assert after.can_sign()
            assert after.rings.all() == before.rings.all()


REFUSED_KEYS = {
    "wrapped": "UPDATE private_keys SET wrapped = zeroblob(1000) WHERE kid = ?",
    "kek_id": "UPDATE private_keys SET kek_id = 'other' WHERE kid = ?",
    "kid": "UPDATE private_keys SET kid = 'other' WHERE kid = ?",
    "issuer": "UPDATE private_keys SET issuer = 'fabrikam' WHERE kid = ?",
    "deleted": "DELETE FROM private_keys WHERE kid = ?",
    "of another key": "UPDATE private_keys SET wrapped = (SELECT max(wrapped) FROM private_keys WHERE kid <> ?1) "
    "WHERE kid = ?1",
}


@pytest.mark.parametrize("statement", REFUSED_KEYS.values(), ids=REFUSED_KEYS.keys())
async def test_an_edited_private_key_is_refused_and_named_and_nothing_takes_its_place(
    folder: Path, statement: str
) -> None:
    async with replica(folder / "keyturn.toml") as before:
        await before.maintenance.step()
        ring = before.rings.current("contoso")
    key = signer(ring, SystemClock().now())
    assert key is not None
    edit(folder, statement, key.kid)
    async with replica(folder / "keyturn.toml") as started:
        with capture_logs() as logs:
            await started.maintenance.step()
        refused = [line["row"] for line in logs if line["event"] == "private key refused"]
        assert refused == [f"private_keys (contoso, {key.kid})"]
        assert not started.can_sign()
        assert started.rings.all() == {"contoso": ring}


async def test_a_running_replica_does_not_follow_a_store_that_goes_back(folder: Path) -> None:
    async with replica(folder / "keyturn.toml") as running:
        await running.maintenance.step()
        ring = running.rings.current("contoso")
        edit(folder, f"DELETE FROM ring_versions {NEWEST}")
        with capture_logs() as logs:
            await running.maintenance.step()
        assert [line["row"] for line in logs if line["event"] == "ring refused"] == ["ring_versions (contoso, 1)"]
        assert running.rings.current("contoso") == ring
        assert standby(ring, SystemClock().now()) is not None


async def test_a_running_replica_does_not_forget_an_issuer_that_the_store_lost(folder: Path) -> None:
    async with replica(folder / "keyturn.toml") as running:
        await running.maintenance.step()
        edit(folder, "DELETE FROM ring_versions")
        with capture_logs() as logs:
            await running.maintenance.step()
        assert [line["row"] for line in logs if line["event"] == "ring refused"] == ["ring_versions (contoso, 2)"]
        assert running.can_sign()


async def test_a_schema_of_another_revision_is_not_started_on(folder: Path) -> None:
    edit(folder, "UPDATE alembic_version SET version_num = 'other'")
    with pytest.raises(ConfigurationError, match=r"storage\.url"):
        async with replica(folder / "keyturn.toml"):
            pass
