"""The key encryption key (KEK): what every secret in the store is encrypted under, and which is never in the store.

AES-256-GCM (NIST SP 800-38D). What is wrapped is bound to its place by associated data, so that a row which was moved
to another name, store or KEK does not unwrap.
"""

import base64
import binascii
import hashlib
import os
import secrets
import stat
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyturn_server.domain.errors import ConfigurationError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_FILE_PREFIX = b"keyturn-kek-1"
_LONGEST_FILE = 1024
_ID_PREFIX = b"keyturn key encryption key identifier 1\x00"


class UnwrapError(Exception):
    """These bytes were not wrapped by this KEK for this place, or were changed since. It says nothing of them."""


class Purpose(StrEnum):
    """What is wrapped. The parts that follow it in the associated data are its place."""

    PRIVATE_KEY = "private key"
    """Issuer, kid, KEK id."""
    CANARY = "canary"
    """Store id, KEK id."""
    INTEGRITY_KEY = "integrity key"
    """Store id, KEK id."""


def associated_data(purpose: Purpose, *place: str) -> bytes:
    """The purpose and each part of the place after its length, so that no two places give the same bytes."""
    parts = [part.encode() for part in ("keyturn 1", purpose, *place)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class Kek:
    """A key encryption key. Its `id` is derived from the key, and tells nothing of it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"a key encryption key has {_KEY_BYTES} bytes, not {len(key)}")
        self.id = hashlib.sha256(_ID_PREFIX + key).hexdigest()[:16]
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return f"Kek(id={self.id!r})"

    def wrap(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """A random nonce of 96 bits, then ciphertext and tag.

        Random nonces allow 2^32 wrappings under one KEK (NIST SP 800-38D, section 8.3).
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, associated_data)

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> bytes:
        """What `wrap` was given. Raises `UnwrapError` unless every byte and the associated data are the same."""
        if len(wrapped) < _NONCE_BYTES + _TAG_BYTES:
            raise UnwrapError
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], associated_data)
        except InvalidTag:
            raise UnwrapError from None


def new_kek_file(path: Path) -> Kek:
    """Writes a fresh KEK into a new file of mode 0600, durably, and returns it as it reads back.

    Raises `ConfigurationError` where the file exists already or cannot be written.
    """
    line = _FILE_PREFIX + b" " + base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(line)
            file.flush()
            # What is wrapped under a KEK that a power failure takes away is lost.
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except FileExistsError:
        raise _refusal(path, "it exists already, and a key encryption key is never overwritten") from None
    except OSError as error:
        raise _refusal(path, f"it cannot be written ({error.strerror})") from error
    return read_kek_file(path)


def read_kek_file(path: Path) -> Kek:
    """The KEK of a file. Raises `ConfigurationError` for one that is missing, that is no KEK file, or that anybody
    but its owner, who is this user or root, may read or write.
    """
    try:
        with path.open("rb") as file:
            # Of the open file, so that it is the one that is read.
            status = os.fstat(file.fileno())
            content = file.read(_LONGEST_FILE)
    except FileNotFoundError:
        raise _refusal(path, "it does not exist: restore it from its backup, or correct the setting") from None
    except OSError as error:
        raise _refusal(path, f"it cannot be read ({error.strerror})") from error
    if status.st_uid not in (os.geteuid(), 0):
        raise _refusal(path, f"it belongs to user {status.st_uid}; it must belong to user {os.geteuid()} or root")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        raise _refusal(path, f"others than its owner may use it (mode {mode:04o}); set its mode to 0600")
    prefix, _, encoded = content.strip().partition(b" ")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if prefix != _FILE_PREFIX or len(key) != _KEY_BYTES:
        form = f"one line of {_FILE_PREFIX.decode()} and {_KEY_BYTES} bytes in base64"
        raise _refusal(path, f"it is not a key encryption key, which is {form}")
    return Kek(key)


def _refusal(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"kek.file {path}: {why}")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
