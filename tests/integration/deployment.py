"""A real keyturn for tests: made by `init`, served by its own process, used over real sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from keyturn import TLS, AsyncClient, Client
from keyturn_server.initialise import Addresses, default_template, initialise

START_TIMEOUT = 30.0

TINY_POLICY = {
    "rotation_period": '"6s"',
    "propagation_window": '"5s"',
    "verifier_cache": '"2s"',
    "signing_lease": '"1s"',
    "max_token_lifetime": '"10s"',
    "default_token_lifetime": '"5s"',
    "max_age": '"1s"',
    "tolerance": '"500ms"',
    "poll_interval": '"200ms"',
}
"""Times that a test can wait for."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes


def with_settings(text: str, **settings: str) -> str:
    """The configuration with other values for these settings, wherever they stand first."""
    for name, value in settings.items():
        text, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}", text, count=1, flags=re.MULTILINE)
        assert count, f"the configuration has no {name}"
    return text


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(taken.getsockname()[1]) for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


class Deployment:
    """One replica in a folder. `start` and `stop` run the real process; `keyturn` runs the real command."""

    def __init__(self, folder: Path, addition: str = "", **settings: str) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
        self.folder = folder
        self.signing, self.publisher, self.operations = addresses
        template = with_settings(default_template(), **settings) + addition
        self.config = initialise(folder, Addresses(*addresses), template)
        self.log = folder / "keyturn.log"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, **settings: str) -> None:
        """Changes settings in the configuration file."""
        self.config.write_text(with_settings(self.config.read_text(), **settings))

    def start(self) -> None:
        """Starts the service and waits until it is ready and its first pass has dated the standby."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command("serve"), stderr=log, env=environment())
        deadline = time.monotonic() + START_TIMEOUT
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                if self.get(f"http://{self.operations}/readyz").status == 200 and self.ring_version() > 1:
                    return
            time.sleep(0.02)
        raise AssertionError(f"the service did not become ready:\n{self.log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stops the service and gives its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self.process = None
        return code

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "keyturn_server", "--config", str(self.config), *arguments]

    def keyturn(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, check=False, env=environment()
        )

    def keys(self, *arguments: str) -> dict[str, Any]:
        """What `keyturn keys … --output json` answers."""
        done = self.keyturn("keys", *arguments, "--output", "json")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def tls(self, name: str = "client") -> TLS:
        tls = self.folder / "tls"
        return TLS(ca=tls / "ca.pem", certificate=tls / f"{name}.pem", private_key=tls / f"{name}.key")

    def client(self, name: str = "client") -> Client:
        return Client(self.signing, tls=self.tls(name))

    def async_client(self) -> AsyncClient:
        return AsyncClient(self.signing, tls=self.tls())

    def url(self, document: str) -> str:
        return f"http://{self.publisher}/{document}"

    def get(self, url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        request = urllib.request.Request(url, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def document(self, name: str) -> bytes:
        answer = self.get(self.url(name))
        assert answer.status == 200, answer.body
        return answer.body

    def ring_version(self) -> int:
        return int(self.get(self.url("contoso/publickey")).headers["Keyturn-Ring-Version"])

    def jwks_kids(self) -> list[str]:
        return [key["kid"] for key in json.loads(self.document("contoso/.well-known/jwks.json"))["keys"]]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
