"""The README's commands and snippets, run as they stand there; only the ports are others."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deployment import environment, free_ports

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()

WAIT = """until {python} -c 'from urllib.request import urlopen; urlopen("http://{operations}/readyz")' 2>/dev/null
do kill -0 $! || exit 1; done
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a path so short that a Unix socket fits below it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_the_commands_of_the_readme_work_one_after_the_other(scratch: Path) -> None:
    signing, publisher, operations = (f"127.0.0.1:{port}" for port in free_ports(3))
    commands = [block for block in blocks("sh") if "make " not in block and "pip install" not in block]
    (scratch / "snippet.py").write_text("".join(blocks("python")).replace("127.0.0.1:8443", signing))
    commands = ["trap 'kill %1' ERR", *commands, f"{sys.executable} snippet.py", "kill -TERM %1; wait %1"]
    script = "\n".join(commands)
    wait = WAIT.format(python=sys.executable, operations=operations)
    script = re.sub(r"keyturn serve &.*", f"keyturn serve 2>log &\n{wait}", script, count=1)
    script = script.replace("127.0.0.1:8080", publisher)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-m", "-c", script],
        cwd=scratch,
        env={
            **environment(),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KEYTURN_SIGNING__LISTEN": signing,
            "KEYTURN_CLIENT__TARGET": signing,
            "KEYTURN_PUBLISHER__LISTEN": publisher,
            "KEYTURN_OPERATIONS__LISTEN": operations,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"iss": "contosohelp.com"' in done.stdout
    assert "context" in done.stdout
    assert "Plan, on version" in done.stdout
