"""What stops the start, with what exit code and message, and that nothing is changed by it."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keyturn_server.crypto.kek import new_kek_file
from keyturn_server.storage.migrate import migrate
from tests.integration.deployment import Deployment, environment


def refused(deployment: Deployment) -> str:
    """The one line that `serve` leaves when it refuses to start."""
    done = deployment.keyturn("serve")
    assert done.returncode == 78, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("keyturn: ")]
    assert len(lines) == 1
    return lines[0]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_setting_that_breaks_a_rule_is_named_with_its_numbers(deployment: Deployment) -> None:
    deployment.configure(propagation_window='"1h"')
    line = refused(deployment)
    assert "issuers[contoso].propagation_window" in line
    assert "18:07:00" in line


def test_a_wrong_kek_stops_the_start_and_changes_nothing(deployment: Deployment) -> None:
    (deployment.folder / "kek").unlink()
    new_kek_file(deployment.folder / "kek")
    before = contents(deployment.folder)
    assert "kek" in refused(deployment)
    assert contents(deployment.folder) == before


def test_a_missing_store_is_not_made(deployment: Deployment) -> None:
    database = deployment.folder / "keyturn.db"
    database.unlink()
    assert "storage.url" in refused(deployment)
    assert not database.exists()


def test_a_store_that_was_never_set_up_stops_the_start_and_stays_as_it_is(deployment: Deployment) -> None:
    database = deployment.folder / "keyturn.db"
    database.unlink()
    migrate(f"sqlite:///{database}")
    before = contents(deployment.folder)
    assert "never set up" in refused(deployment)
    assert contents(deployment.folder) == before


def test_another_integrity_key_stops_the_start(deployment: Deployment) -> None:
    deployment.configure(public_key='"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrb"')
    assert "integrity.public_key" in refused(deployment)


@pytest.mark.parametrize("setting", ["signing", "publisher", "operations"])
def test_a_taken_port_names_its_setting(deployment: Deployment, setting: str) -> None:
    address = str(getattr(deployment, setting))
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))):
        assert f"{setting}.listen" in refused(deployment)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(deployment: Deployment, number: signal.Signals) -> None:
    deployment.start()
    with deployment.client() as client:
        client.sign(subject="a")
        assert deployment.stop(number) == 0
    assert '"event": "stopped"' in deployment.log.read_text()


def test_the_service_makes_no_core_dump_and_no_file_that_others_may_read(deployment: Deployment) -> None:
    deployment.start()
    assert deployment.process is not None
    limits = Path(f"/proc/{deployment.process.pid}/limits").read_text()
    core = next(line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core[4:6] == ["0", "0"]
    status = Path(f"/proc/{deployment.process.pid}/status").read_text()
    assert "Umask:\t0077" in status
    public = [path for path in deployment.folder.rglob("*") if path.stat().st_mode & 0o077]
    assert public == [deployment.log]


def test_a_confined_process_is_not_dumpable() -> None:
    script = "import ctypes; from keyturn_server.process import confine; confine(); print(ctypes.CDLL(None).prctl(3))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip() == "0"


def test_the_operators_socket_is_in_a_folder_that_only_its_user_may_enter(deployment: Deployment) -> None:
    deployment.start()
    folder = deployment.folder / "admin"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "keyturn.sock").stat().st_mode & 0o777 == 0o600


def test_an_open_folder_for_the_operators_socket_stops_the_start(deployment: Deployment) -> None:
    os.chmod(deployment.folder / "admin", 0o755)  # noqa: PTH101 - so is the message's advice
    assert "chmod 700" in refused(deployment)
