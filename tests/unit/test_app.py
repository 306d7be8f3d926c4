"""What stands before a service: the keys to its store, or the reason why it does not start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keyturn_server.app import unlock
from keyturn_server.config import Configuration, load_configuration
from keyturn_server.crypto.kek import Kek, new_kek_file
from keyturn_server.crypto.stamp import new_stamp
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.ports import Stamp
from keyturn_server.storage.memory import MemoryDatabase, MemoryStore

CONFIGURATION = """
[signing]
certificate = "server.pem"
private_key = "server.key"
client_ca = "ca.pem"
[integrity]
public_key = "{public_key}"
[[issuers]]
id = "contoso"
iss = "contosohelp.com"
"""

Configure = Callable[[str], Configuration]


@pytest.fixture
def kek(tmp_path: Path) -> Kek:
    """What `kek.file` holds."""
    return new_kek_file(tmp_path / "kek")


@pytest.fixture
def configure(tmp_path: Path, kek: Kek) -> Configure:
    """Makes the configuration that pins this integrity key."""

    def configure(public_key: str) -> Configuration:
        path = tmp_path / "keyturn.toml"
        path.write_text(CONFIGURATION.format(public_key=public_key))
        path.chmod(0o600)
        return load_configuration(path, {})

    return configure


async def refused(configuration: Configuration, stamp: Stamp | None) -> str:
    """Why a store with this stamp is not served; it stays as it was."""
    database = MemoryDatabase(stamp)
    with pytest.raises(ConfigurationError) as refusal:
        await unlock(configuration, MemoryStore(database))
    assert database == MemoryDatabase(stamp)
    return refusal.value.message


async def test_a_store_opens_to_the_key_encryption_key_and_the_integrity_key_it_was_set_up_with(
    kek: Kek, configure: Configure
) -> None:
    stamp, integrity_key = new_stamp(kek)

    opened, seal = await unlock(configure(integrity_key.public_text), MemoryStore(MemoryDatabase(stamp)))

    assert opened.id == kek.id
    assert integrity_key.check(b"a ring", seal.seal(b"a ring"))


async def test_a_store_that_was_never_set_up_is_not_served_and_not_set_up(kek: Kek, configure: Configure) -> None:
    _, integrity_key = new_stamp(kek)

    assert "keyturn init" in await refused(configure(integrity_key.public_text), None)


async def test_a_store_of_another_key_encryption_key_is_not_served_and_not_changed(
    tmp_path: Path, configure: Configure
) -> None:
    stamp, integrity_key = new_stamp(new_kek_file(tmp_path / "another kek"))

    assert "kek.file" in await refused(configure(integrity_key.public_text), stamp)


async def test_a_store_of_another_integrity_key_is_not_served_and_not_changed(kek: Kek, configure: Configure) -> None:
    (stamp, _), (_, another) = new_stamp(kek), new_stamp(kek)

    assert "integrity.public_key" in await refused(configure(another.public_text), stamp)
