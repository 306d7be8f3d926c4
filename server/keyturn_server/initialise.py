"""Everything that a first start needs, made once: configuration, secrets, development certificates, a stamped store."""

import asyncio
import os
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from keyturn_server.config import Configuration, load_configuration
from keyturn_server.crypto.certificates import new_authority
from keyturn_server.crypto.integrity import IntegrityKey
from keyturn_server.crypto.kek import Kek, new_kek_file
from keyturn_server.crypto.rsa_keys import RsaPrivateKeys
from keyturn_server.crypto.stamp import new_stamp
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.domain.lifecycle import first_ring
from keyturn_server.domain.ring import Change
from keyturn_server.ledger import Ledger
from keyturn_server.ports import Stamp
from keyturn_server.process import SystemClock
from keyturn_server.storage.migrate import migrate
from keyturn_server.storage.sql import SqlStore

CONFIGURATION = "keyturn.toml"
CERTIFICATE_DAYS = 365
SAMPLE_CALLER = "spiffe://contoso.example/website"

_MADE = (CONFIGURATION, "kek", "keyturn.db", "tls", "admin")
"""What `initialise` makes in its folder; it refuses to start where any of it is there already."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the new service will listen, as host:port."""

    signing: str = "127.0.0.1:8443"
    publisher: str = "127.0.0.1:8080"
    operations: str = "127.0.0.1:9090"


def default_template() -> str:
    """The commented configuration that `init` starts from; `$name` stands for what it fills in."""
    return resources.files("keyturn_server").joinpath("keyturn.toml.template").read_text("utf-8")


def initialise(folder: Path, addresses: Addresses, template: str | None = None) -> Path:
    """Makes everything in `folder` and gives the path of the configuration, which is made from the template.

    Raises `ConfigurationError` where any of it exists: nothing is ever overwritten. What a failure leaves half made is
    removed again.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = [name for name in _MADE if (folder / name).exists()]
    if present:
        raise ConfigurationError(
            f"{folder} already holds {', '.join(present)}: init never overwrites; choose another folder, or move "
            "them away"
        )
    try:
        kek = new_kek_file(folder / "kek")
        stamp, integrity_key = new_stamp(kek)
        _write_certificates(folder / "tls")
        (folder / "admin").mkdir(mode=0o700)
        path = _write_configuration(folder, template or default_template(), addresses, integrity_key)
        configuration = load_configuration(path, {})
        migrate(configuration.storage.url)
        asyncio.run(_set_up_store(configuration, kek, stamp, integrity_key))
    except BaseException:
        _remove(folder)
        raise
    return path


async def _set_up_store(configuration: Configuration, kek: Kek, stamp: Stamp, integrity_key: IntegrityKey) -> None:
    """Stamps the store and makes the first ring of each configured issuer."""
    private_keys = RsaPrivateKeys(kek)
    store = SqlStore.open(configuration.storage.url)
    try:
        await store.write_stamp(stamp)
        ledger = Ledger(store, integrity_key)
        for issuer, policy in configuration.policies().items():
            made = [private_keys.generate(issuer, policy.key_size) for _ in range(2)]
            change = Change(made_at=SystemClock().now(), actor="init", action="made the issuer")
            (first, first_wrapped), (second, second_wrapped) = made
            ring = first_ring(issuer, configuration.iss_claims()[issuer], policy, (first, second), change)
            await ledger.append(ring, add=[first_wrapped, second_wrapped])
    finally:
        await store.close()


def _write_configuration(folder: Path, template: str, addresses: Addresses, integrity_key: IntegrityKey) -> Path:
    text = Template(template).substitute(
        signing=addresses.signing,
        publisher=addresses.publisher,
        operations=addresses.operations,
        integrity_public_key=integrity_key.public_text,
        caller=SAMPLE_CALLER,
    )
    path = folder / CONFIGURATION
    _write(path, text.encode("utf-8"))
    return path


def _write_certificates(folder: Path) -> None:
    """A development authority, a server certificate for this host and a client certificate for the sample caller."""
    folder.mkdir(mode=0o700)
    now = SystemClock().now()
    authority = new_authority("keyturn development CA", now=now, days=CERTIFICATE_DAYS)
    server = authority.issue(now=now, days=CERTIFICATE_DAYS, dns=["localhost"], ips=["127.0.0.1", "::1"], server=True)
    client = authority.issue(now=now, days=CERTIFICATE_DAYS, uris=[SAMPLE_CALLER], client=True)
    _write(folder / "ca.pem", authority.certificate)
    _write(folder / "ca.key", authority.private_key)
    for name, issued in (("server", server), ("client", client)):
        _write(folder / f"{name}.pem", issued.certificate)
        _write(folder / f"{name}.key", issued.private_key)


def _write(path: Path, content: bytes) -> None:
    """Writes a new file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _remove(folder: Path) -> None:
    for name in (*_MADE, "keyturn.db-wal", "keyturn.db-shm"):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
