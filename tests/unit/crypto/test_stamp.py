import base64
import re
from dataclasses import replace

import pytest

from keyturn_server.crypto.integrity import IntegrityKey
from keyturn_server.crypto.kek import Kek, Purpose, associated_data
from keyturn_server.crypto.stamp import new_stamp, open_stamp
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.ports import RingSeal, Stamp
from tests.unit.crypto.keys import KEK_BYTES, flipped


def assert_refused(stamp: Stamp, kek: Kek, pinned: str, column: str, why: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"^stamp row of the store, column {column}: .*{re.escape(why)}"
    ) as caught:
        open_stamp(stamp, kek, pinned)
    for secret in (
        KEK_BYTES.hex(),
        base64.b64encode(KEK_BYTES).decode(),
        repr(stamp.canary),
        repr(stamp.integrity_key),
    ):
        assert secret not in str(caught.value)


def test_a_stamp_opens_to_the_integrity_key_that_was_made_with_it(kek: Kek) -> None:
    stamp, key = new_stamp(kek)

    opened: RingSeal = open_stamp(stamp, kek, key.public_text)

    assert key.check(b"a ring", opened.seal(b"a ring"))


def test_every_store_has_an_identifier_and_an_integrity_key_of_its_own(kek: Kek) -> None:
    one, one_key = new_stamp(kek)
    other, other_key = new_stamp(kek)

    assert one.store_id != other.store_id
    assert one_key.public_text != other_key.public_text


def test_another_kek_is_named_together_with_the_one_that_is_needed(kek: Kek) -> None:
    stamp, key = new_stamp(kek)
    other = Kek(bytes(32))

    assert_refused(stamp, other, key.public_text, "kek_id", f"key {kek.id}, and kek.file holds {other.id}: point")


def test_another_kek_under_the_right_name_does_not_pass_the_canary(kek: Kek) -> None:
    stamp, key = new_stamp(kek)
    other = Kek(bytes(32))

    assert_refused(replace(stamp, kek_id=other.id), other, key.public_text, "canary", "does not decrypt")


def test_a_changed_canary_is_refused(kek: Kek) -> None:
    stamp, key = new_stamp(kek)
    for position in range(len(stamp.canary)):
        changed = replace(stamp, canary=flipped(stamp.canary, position))
        assert_refused(changed, kek, key.public_text, "canary", "restore it from a backup")


def test_a_canary_of_other_bytes_is_refused(kek: Kek) -> None:
    stamp, key = new_stamp(kek)
    canary = kek.wrap(b"another bird", associated_data(Purpose.CANARY, stamp.store_id, kek.id))

    assert_refused(replace(stamp, canary=canary), kek, key.public_text, "canary", "restore it from a backup")


def test_a_renamed_store_is_refused(kek: Kek) -> None:
    stamp, key = new_stamp(kek)

    assert_refused(replace(stamp, store_id="another"), kek, key.public_text, "canary", "does not decrypt")


def test_the_canary_does_not_pass_for_the_integrity_key(kek: Kek) -> None:
    stamp, key = new_stamp(kek)

    swapped = replace(stamp, integrity_key=stamp.canary)

    assert_refused(swapped, kek, key.public_text, "integrity_key", "does not decrypt")


def test_a_changed_integrity_key_is_refused(kek: Kek) -> None:
    stamp, key = new_stamp(kek)
    for position in range(len(stamp.integrity_key)):
        changed = replace(stamp, integrity_key=flipped(stamp.integrity_key, position))
        assert_refused(changed, kek, key.public_text, "integrity_key", "restore it from a backup")


def test_wrapped_bytes_that_are_no_integrity_key_are_refused(kek: Kek) -> None:
    stamp, key = new_stamp(kek)
    short = kek.wrap(b"short", associated_data(Purpose.INTEGRITY_KEY, stamp.store_id, kek.id))

    assert_refused(replace(stamp, integrity_key=short), kek, key.public_text, "integrity_key", "does not decrypt")


def test_a_store_with_another_integrity_key_than_the_pinned_one_is_refused(kek: Kek) -> None:
    stamp, _ = new_stamp(kek)
    pinned = IntegrityKey.generate().public_text

    assert_refused(stamp, kek, pinned, "integrity_key", "its public half is not integrity.public_key")


def test_a_pin_that_is_no_key_names_the_setting(kek: Kek) -> None:
    stamp, _ = new_stamp(kek)

    with pytest.raises(ConfigurationError, match=r"^integrity\.public_key is not a public key"):
        open_stamp(stamp, kek, "")


def test_nothing_that_shows_a_stamp_shows_what_is_wrapped_in_it(kek: Kek) -> None:
    stamp, key = new_stamp(kek)

    assert repr(stamp) == f"Stamp(store_id={stamp.store_id!r}, kek_id={kek.id!r})"
    assert b"canary" not in stamp.canary + stamp.integrity_key
    assert key.public_text not in repr(stamp)
