"""`keyturn demo`: what a newcomer sees first."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deployment import environment


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a path so short that a Unix socket fits below it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_the_demo_signs_and_verifies_from_all_three_documents_and_cleans_up(scratch: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keyturn_server", "demo", "--once"],
        env={**environment(), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    verified = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" verified")]
    assert [url.rsplit("/contoso/")[1] for url in verified] == ["publickey", ".well-known/jwks.json", "publickey.pem"]
    assert '"msdyn_cartvalue": "10000"' in done.stdout
    assert "keys rotate" in done.stdout
    assert os.listdir(scratch) == []  # noqa: PTH208 - nothing at all is left
