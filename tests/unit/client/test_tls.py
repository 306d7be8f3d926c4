import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from keyturn import TLS
from keyturn.tls import channel_credentials
from tests.unit.client.signing_service import Authority

FIELDS = ["ca", "certificate", "private_key"]


@pytest.fixture
def copied(tls: TLS, tmp_path: Path) -> TLS:
    """Files that a test may spoil."""
    paths = {field: tmp_path / f"{field}.pem" for field in FIELDS}
    for field, path in paths.items():
        path.write_bytes(Path(getattr(tls, field)).read_bytes())
    return TLS(**paths)


def test_paths_may_be_strings_or_paths(copied: TLS) -> None:
    as_strings = TLS(ca=str(copied.ca), certificate=str(copied.certificate), private_key=str(copied.private_key))

    for tls in (copied, as_strings):
        assert isinstance(channel_credentials(tls), grpc.ChannelCredentials)


def test_the_repr_shows_paths_alone() -> None:
    tls = TLS(ca="ca.pem", certificate="frontend.pem", private_key="frontend.key")

    assert repr(tls) == "TLS(ca='ca.pem', certificate='frontend.pem', private_key='frontend.key')"


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "must be a path (str or Path), not NoneType"),
        (b"ca.pem", TypeError, "must be a path (str or Path), not bytes"),
        ("-----BEGIN PRIVATE KEY-----\nMII", ValueError, "must be the path of a PEM file, not its content"),
    ],
)
def test_what_is_no_path_is_refused_without_being_quoted(
    field: str, value: Any, error: type[Exception], message: str
) -> None:
    paths: dict[str, Any] = dict.fromkeys(FIELDS, "x.pem") | {field: value}

    with pytest.raises(error) as raised:
        TLS(**paths)

    assert str(raised.value) == f"TLS.{field} {message}"


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_file_is_named_with_its_field(field: str, copied: TLS) -> None:
    path = Path(getattr(copied, field))
    path.unlink()

    with pytest.raises(FileNotFoundError) as raised:
        channel_credentials(copied)

    assert str(raised.value) == f"[Errno 2] TLS.{field} cannot be read: No such file or directory: '{path}'"
    assert raised.value.filename == str(path)


@pytest.mark.parametrize("field", FIELDS)
def test_an_unreadable_file_is_named_with_its_field(field: str, copied: TLS) -> None:
    path = Path(getattr(copied, field))
    path.unlink()
    path.mkdir()

    with pytest.raises(IsADirectoryError, match=rf"TLS\.{field} cannot be read: .*{path.name}"):
        channel_credentials(copied)


@pytest.mark.parametrize("content", [b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_file_without_the_right_content_is_named(field: str, content: bytes, copied: TLS) -> None:
    path = Path(getattr(copied, field))
    path.write_bytes(content)

    with pytest.raises(ValueError, match=re.escape(f"TLS.{field} ({path})")):
        channel_credentials(copied)


def test_certificate_and_private_key_that_were_swapped_are_refused(copied: TLS) -> None:
    swapped = replace(copied, certificate=copied.private_key, private_key=copied.certificate)

    with pytest.raises(ValueError, match="are not a PEM certificate and its unencrypted PEM private key"):
        channel_credentials(swapped)


def test_a_private_key_of_another_certificate_is_refused(tls: TLS, authority: Authority) -> None:
    other = authority.issue("other.test")

    with pytest.raises(ValueError, match=r"KEY_VALUES_MISMATCH$"):
        channel_credentials(replace(tls, private_key=other.private_key))


def test_an_encrypted_private_key_is_refused_without_asking_for_its_password(copied: TLS) -> None:
    path = Path(copied.private_key)
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    with pytest.raises(ValueError, match="unencrypted PEM private key"):
        channel_credentials(copied)
