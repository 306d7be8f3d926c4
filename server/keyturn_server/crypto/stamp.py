"""The stamp: what proves at the start that store, key encryption key and configuration belong together.

`init` makes it once. Opening it fails for anything that does not fit, before a key is read or made.
"""

import secrets

from keyturn_server.crypto.integrity import IntegrityKey, IntegrityVerifier
from keyturn_server.crypto.kek import Kek, Purpose, UnwrapError, associated_data
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.ports import Stamp

_CANARY = b"keyturn canary 1"


def new_stamp(kek: Kek) -> tuple[Stamp, IntegrityKey]:
    """A stamp for a new store, and its new integrity key, whose `public_text` belongs into the configuration."""
    store_id = secrets.token_hex(16)
    key = IntegrityKey.generate()
    canary = kek.wrap(_CANARY, associated_data(Purpose.CANARY, store_id, kek.id))
    return Stamp(store_id, kek.id, canary, key.wrap(kek, store_id)), key


def open_stamp(stamp: Stamp, kek: Kek, pinned_public_key: str) -> IntegrityKey:
    """The integrity key of a store. `pinned_public_key` is the setting `integrity.public_key`.

    Raises `ConfigurationError` that names the column of the stamp which does not fit, and what to do.
    """
    pinned = IntegrityVerifier.from_text(pinned_public_key)
    if stamp.kek_id != kek.id:
        raise _refusal(
            "kek_id",
            f"the store was set up with key encryption key {stamp.kek_id}, and kek.file holds {kek.id}: point kek.file "
            "at the key of this store, or storage.url at the store of this key",
        )
    try:
        canary = kek.unwrap(stamp.canary, associated_data(Purpose.CANARY, stamp.store_id, kek.id))
    except UnwrapError:
        canary = b""
    if canary != _CANARY:
        raise _refusal("canary", "it does not decrypt under kek.file: the row was changed; restore it from a backup")
    try:
        key = IntegrityKey.unwrap(stamp.integrity_key, kek, stamp.store_id)
    except UnwrapError:
        raise _refusal(
            "integrity_key", "it does not decrypt under kek.file: the row was changed; restore it from a backup"
        ) from None
    if key.public_text != pinned.public_text:
        raise _refusal(
            "integrity_key",
            "its public half is not integrity.public_key: the configuration belongs to another store, or the store was "
            "replaced; point storage.url at the store that this configuration was made for",
        )
    return key


def _refusal(column: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"stamp row of the store, column {column}: {why}")
