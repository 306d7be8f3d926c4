from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment of one test's own, not started."""
    made = Deployment(tmp_path / "keyturn")
    yield made
    if made.process is not None:
        made.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running deployment that the tests of a module share."""
    made = Deployment(tmp_path_factory.mktemp("served") / "keyturn")
    made.start()
    yield made
    assert made.stop() == 0
