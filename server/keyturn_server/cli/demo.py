"""`keyturn demo`: the whole service in a scratch folder, shown working."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from keyturn import TLS, Client, SignedToken
from keyturn_server.cli.output import command_line, print_json
from keyturn_server.cli.token import decoded, fetch
from keyturn_server.config import Configuration, load_configuration
from keyturn_server.crypto.verification import verify_token
from keyturn_server.domain.errors import KeyturnError
from keyturn_server.http.publisher import PATHS
from keyturn_server.initialise import Addresses, initialise
from keyturn_server.process import SystemClock, confine

SUBJECT = "87b4d06c-abc2-e811-a9b0-000d3a10e09e"
CONTEXT = {"msdyn_cartvalue": "10000", "msdyn_isvip": "false"}
"""The customer and the context of the sample in Microsoft's page "Send authentication token"."""

START_TIMEOUT = 30.0


@click.command
@click.option("--once", is_flag=True, help="Stop after the token is verified instead of serving on.")
def demo(once: bool) -> None:
    """Set everything up in a scratch folder, sign a token, verify it from each document, and go on serving."""
    confine()
    with tempfile.TemporaryDirectory(prefix="keyturn-demo-") as scratch:
        path = initialise(Path(scratch), Addresses(*(f"127.0.0.1:{_free_port(port)}" for port in (8443, 8080, 9090))))
        configuration = load_configuration(path, {})
        with _running(path, configuration):
            _show_token(configuration)
            _show_next(path, configuration)
            if not once:
                click.echo("\nServing until Ctrl-C.")
                with suppress(KeyboardInterrupt):
                    _wait_for_ever()


@contextmanager
def _running(path: Path, configuration: Configuration) -> Iterator[None]:
    """A real `keyturn serve` over this configuration, from ready until drained. Its log is a file beside it."""
    log = path.parent / "keyturn.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
    with (
        log.open("wb") as log_file,
        subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "keyturn_server", "--config", str(path), "serve"],
            stderr=log_file,
            env=environment,
            start_new_session=True,
        ) as service,
    ):
        try:
            _wait_until_ready(service, f"http://{configuration.operations.listen}/readyz", log)
            yield
        finally:
            service.terminate()
            service.wait()


def _wait_until_ready(service: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while service.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=1):  # noqa: S310 - our own address
            return
        time.sleep(0.05)
    raise KeyturnError(f"the service did not start:\n{log.read_text()}")


def _show_token(configuration: Configuration) -> None:
    """Signs the sample, shows what it says, and verifies it from each document."""
    signed = _sign(configuration)
    click.echo(f"A token for customer {SUBJECT}, signed over mutual TLS:\n\n{signed.token}\n\nIt says:")
    print_json(decoded(signed.token))
    click.echo(f"\nVerified with key {signed.key_id} from")
    for url in _document_urls(configuration):
        verify_token(signed.token, fetch(url), now=SystemClock().now(), iss=configuration.iss_claims()["contoso"])
        click.echo(f"  {url:<55} verified")


def _sign(configuration: Configuration) -> SignedToken:
    settings = configuration.client
    if settings is None:
        raise KeyturnError("the demo's configuration has no [client] section")
    tls = TLS(ca=settings.ca, certificate=settings.certificate, private_key=settings.private_key)
    with Client(settings.target, tls=tls) as client:
        return client.sign(subject=SUBJECT, context=CONTEXT)


def _show_next(path: Path, configuration: Configuration) -> None:
    keyturn = command_line(path)
    array, *_ = _document_urls(configuration)
    click.echo(f"""
The URL to enter as public key URL in the Omnichannel admin centre would be {array}
Health: http://{configuration.operations.listen}/livez  http://{configuration.operations.listen}/readyz
Log:    {path.parent / "keyturn.log"}

Try, in another terminal:
  {keyturn} keys list
  {keyturn} keys rotate --dry-run --force --reason "trying it out"
  {keyturn} keys rotate --force --reason "trying it out"
  {keyturn} token sign --subject {SUBJECT} --context msdyn_cartvalue=10000 \\
    | {keyturn} token verify - --keys {array}""")


def _document_urls(configuration: Configuration) -> list[str]:
    return [f"http://{configuration.publisher.listen}/contoso/{document}" for document in PATHS]


def _free_port(preferred: int) -> int:
    """The preferred port of this host, or any other where it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise KeyturnError("no port is free on 127.0.0.1")


def _wait_for_ever() -> None:
    while True:
        time.sleep(3600)
