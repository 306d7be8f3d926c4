from collections.abc import Iterator

import pytest

from keyturn import TLS
from tests.unit.client.signing_service import Authority, SigningService


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="session")
def service_tls(authority: Authority) -> TLS:
    return authority.issue("127.0.0.1")


@pytest.fixture(scope="session")
def tls(authority: Authority) -> TLS:
    return authority.issue("frontend.test")


@pytest.fixture
def service(service_tls: TLS) -> Iterator[SigningService]:
    service = SigningService(service_tls)
    yield service
    service.stop()
