import base64
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from keyturn_server.crypto.kek import Kek, Purpose, UnwrapError, associated_data, new_kek_file, read_kek_file
from keyturn_server.domain.errors import ConfigurationError
from tests.unit.crypto.keys import KEK_BYTES, flipped

PLAINTEXT = b"a planted secret"
PLACE = b"its place"
LINE = b"keyturn-kek-1 " + base64.b64encode(KEK_BYTES) + b"\n"


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_what_is_wrapped_unwraps(kek: Kek) -> None:
    assert kek.unwrap(kek.wrap(PLAINTEXT, PLACE), PLACE) == PLAINTEXT


def test_the_wrapped_form_is_a_nonce_of_96_bits_and_aes_256_gcm(kek: Kek) -> None:
    wrapped = kek.wrap(PLAINTEXT, PLACE)

    assert AESGCM(KEK_BYTES).decrypt(wrapped[:12], wrapped[12:], PLACE) == PLAINTEXT


def test_no_two_wrappings_share_a_nonce(kek: Kek) -> None:
    assert len({kek.wrap(PLAINTEXT, PLACE)[:12] for _ in range(50)}) == 50


def test_a_change_of_any_byte_is_refused(kek: Kek) -> None:
    wrapped = kek.wrap(PLAINTEXT, PLACE)
    for position in range(len(wrapped)):
        with pytest.raises(UnwrapError):
            kek.unwrap(flipped(wrapped, position), PLACE)


@pytest.mark.parametrize("length", [0, 1, 12, 27, 28, 43])
def test_what_was_cut_short_is_refused(kek: Kek, length: int) -> None:
    with pytest.raises(UnwrapError):
        kek.unwrap(kek.wrap(PLAINTEXT, PLACE)[:length], PLACE)


def test_another_place_is_refused(kek: Kek) -> None:
    with pytest.raises(UnwrapError):
        kek.unwrap(kek.wrap(PLAINTEXT, PLACE), b"another place")


def test_another_kek_is_refused(kek: Kek) -> None:
    with pytest.raises(UnwrapError):
        Kek(bytes(32)).unwrap(kek.wrap(PLAINTEXT, PLACE), PLACE)


def test_the_identifier_of_a_key_never_changes(kek: Kek) -> None:
    # Stores hold it, so the value is pinned here rather than computed.
    assert kek.id == "da1175146cae005c"


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Kek(bytes(length))


def test_associated_data_never_changes() -> None:
    # Stores hold what was wrapped with it.
    assert associated_data(Purpose.PRIVATE_KEY, "contoso", "kid", "kek") == (
        b"\0\0\0\x09keyturn 1\0\0\0\x0bprivate key\0\0\0\x07contoso\0\0\0\x03kid\0\0\0\x03kek"
    )


@settings(deadline=None)
@given(
    st.tuples(st.sampled_from(Purpose), st.lists(st.text("a\0\x01", max_size=3), max_size=3)),
    st.tuples(st.sampled_from(Purpose), st.lists(st.text("a\0\x01", max_size=3), max_size=3)),
)
def test_two_places_have_the_same_associated_data_only_if_they_are_one(
    one: tuple[Purpose, list[str]], other: tuple[Purpose, list[str]]
) -> None:
    assert (associated_data(one[0], *one[1]) == associated_data(other[0], *other[1])) == (one == other)


def test_nothing_that_shows_a_kek_shows_the_key(kek: Kek) -> None:
    shown = f"{kek!r} {kek} {vars(kek)} {kek.id}"
    for secret in (repr(KEK_BYTES)[2:-1], KEK_BYTES.hex(), base64.b64encode(KEK_BYTES).decode()):
        assert secret not in shown
    assert repr(kek) == f"Kek(id={kek.id!r})"


def test_a_new_kek_file_is_one_line_that_only_its_owner_may_use(tmp_path: Path) -> None:
    path = tmp_path / "kek"

    kek = new_kek_file(path)

    assert path.stat().st_mode & 0o7777 == 0o600
    prefix, encoded = path.read_text().removesuffix("\n").split(" ")
    assert prefix == "keyturn-kek-1"
    assert Kek(base64.b64decode(encoded)).id == kek.id == read_kek_file(path).id


def test_every_new_kek_is_another(tmp_path: Path) -> None:
    assert new_kek_file(tmp_path / "one").id != new_kek_file(tmp_path / "other").id


def test_a_kek_file_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "kek", LINE)

    with pytest.raises(ConfigurationError, match=r"kek\.file .*/kek: it exists already"):
        new_kek_file(path)

    assert path.read_bytes() == LINE


def test_a_kek_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"kek\.file .*/missing/kek: it cannot be written \(No such file"):
        new_kek_file(tmp_path / "missing" / "kek")


@pytest.mark.parametrize("content", [LINE, LINE.rstrip()])
def test_a_kek_file_is_read_with_and_without_its_final_newline(tmp_path: Path, kek: Kek, content: bytes) -> None:
    assert read_kek_file(write(tmp_path / "kek", content)).id == kek.id


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_kek_file_may_be_read_only(tmp_path: Path, kek: Kek, mode: int) -> None:
    assert read_kek_file(write(tmp_path / "kek", LINE, mode)).id == kek.id


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o610])
def test_a_kek_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"kek\.file .*/kek: others .*mode {mode:04o}.*0600"):
        read_kek_file(write(tmp_path / "kek", LINE, mode))


def test_a_kek_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "kek", LINE)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    with pytest.raises(ConfigurationError, match=r"kek\.file .*/kek: it belongs to user \d+; it must belong to"):
        read_kek_file(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files that belong to root")
def test_a_kek_file_may_belong_to_root(tmp_path: Path, kek: Kek, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "kek", LINE)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    assert read_kek_file(path).id == kek.id


def test_a_missing_kek_file_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"kek\.file .*/kek: it does not exist"):
        read_kek_file(tmp_path / "kek")

    assert not (tmp_path / "kek").exists()


def test_a_kek_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"kek\.file .*: it cannot be read \(Is a directory\)"):
        read_kek_file(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PLANTED",
        b"keyturn-kek-1",
        b"keyturn-kek-1 PLANTED",
        b"keyturn-kek-1 PLANTED!PLANTED",
        b"keyturn-kek-1 " + base64.b64encode(b"PLANTED"),
        LINE.replace(b"keyturn-kek-1", b"keyturn-kek-2"),
        LINE + LINE,
        LINE.replace(b" ", b"  "),
        b"\xff\xfe" + LINE,
    ],
)
def test_a_file_that_is_no_kek_is_refused_and_its_content_not_shown(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"kek\.file .*/kek: it is not a key encryption key") as caught:
        read_kek_file(write(tmp_path / "kek", content))

    for secret in ("PLANTED", base64.b64encode(b"PLANTED").decode(), base64.b64encode(KEK_BYTES).decode()):
        assert secret not in str(caught.value)
