import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyturn_server.crypto.integrity import IntegrityKey, IntegrityVerifier
from keyturn_server.crypto.kek import Kek, Purpose, UnwrapError, associated_data
from keyturn_server.domain.errors import ConfigurationError
from tests.unit.crypto.keys import flipped

BODY = b'{"issuer":"contoso","version":7}'
KEY = IntegrityKey.generate()


def test_a_sealed_ring_is_recognised_with_and_without_the_private_half() -> None:
    signature = KEY.seal(BODY)

    assert KEY.check(BODY, signature)
    assert IntegrityVerifier.from_text(KEY.public_text).check(BODY, signature)


def test_a_change_of_any_byte_of_the_body_is_seen() -> None:
    signature = KEY.seal(BODY)
    for position in range(len(BODY)):
        assert not KEY.check(flipped(BODY, position), signature)


def test_a_change_of_any_byte_of_the_signature_is_seen() -> None:
    signature = KEY.seal(BODY)
    for position in range(len(signature)):
        assert not KEY.check(BODY, flipped(signature, position))


@pytest.mark.parametrize("signature", [b"", b"short", bytes(64), bytes(65)])
def test_what_is_no_signature_is_refused_without_an_error(signature: bytes) -> None:
    assert not KEY.check(BODY, signature)


def test_another_key_is_not_recognised() -> None:
    assert not KEY.check(BODY, IntegrityKey.generate().seal(BODY))


def test_a_signature_counts_for_a_ring_and_for_nothing_else() -> None:
    public_key = Ed25519PublicKey.from_public_bytes(base64.b64decode(KEY.public_text))

    public_key.verify(KEY.seal(BODY), b"keyturn ring 1\0" + BODY)
    with pytest.raises(InvalidSignature):
        public_key.verify(KEY.seal(BODY), BODY)


@pytest.mark.parametrize(
    "text",
    ["", "planted", "cGxhbnRlZA==", base64.b64encode(bytes(33)).decode(), f"{KEY.public_text}\n", "é" * 44],
    ids=["empty", "word", "base64", "33 bytes", "line end", "not ASCII"],
)
def test_a_pinned_key_that_is_none_names_the_setting(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^integrity\.public_key is not a public key") as caught:
        IntegrityVerifier.from_text(text)

    assert not text or text not in str(caught.value)


def test_the_private_half_comes_back_from_its_wrapping(kek: Kek) -> None:
    unwrapped = IntegrityKey.unwrap(KEY.wrap(kek, "store"), kek, "store")

    assert unwrapped.public_text == KEY.public_text
    assert KEY.check(BODY, unwrapped.seal(BODY))


def test_the_private_half_of_another_store_does_not_unwrap(kek: Kek) -> None:
    with pytest.raises(UnwrapError):
        IntegrityKey.unwrap(KEY.wrap(kek, "store"), kek, "another store")


def test_wrapped_bytes_of_another_length_are_no_private_half(kek: Kek) -> None:
    wrapped = kek.wrap(bytes(31), associated_data(Purpose.INTEGRITY_KEY, "store", kek.id))

    with pytest.raises(UnwrapError):
        IntegrityKey.unwrap(wrapped, kek, "store")


def test_nothing_that_shows_an_integrity_key_shows_its_private_half(kek: Kek) -> None:
    private_key = Ed25519PrivateKey.generate()
    key = IntegrityKey(private_key)
    raw = private_key.private_bytes_raw()

    shown = f"{key!r} {key} {vars(key)} {key.verifier!r} {vars(key.verifier)}"

    for secret in (repr(raw)[2:-1], raw.hex(), base64.b64encode(raw).decode()):
        assert secret not in shown
    assert raw not in key.wrap(kek, "store")
    assert repr(key) == f"IntegrityKey({key.public_text!r})"
