"""The three files with which client and service prove themselves to each other."""

import os
import ssl
from dataclasses import dataclass, fields
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """Where the PEM files for mutual TLS are. Holds paths alone: a client reads the files when it is made.

    A client keeps what it has read; when a certificate is renewed, make a new client and close the old one.

    Raises `TypeError` for what is no path, and `ValueError` for PEM text in the place of a path, lest a private
    key turns up in the message that no file has that name.
    """

    ca: str | os.PathLike[str]
    """The certificates of the authorities that may have issued the service's certificate."""

    certificate: str | os.PathLike[str]
    """The client's certificate, then its intermediates if it has any. Its URI or DNS name is the caller's."""

    private_key: str | os.PathLike[str]
    """The private key of `certificate`, not encrypted."""

    def __post_init__(self) -> None:
        for field in fields(self):
            path = getattr(self, field.name)
            if not isinstance(path, str | os.PathLike):
                raise TypeError(f"TLS.{field.name} must be a path (str or Path), not {type(path).__name__}")
            if "-----BEGIN" in str(path):
                raise ValueError(f"TLS.{field.name} must be the path of a PEM file, not its content")


def channel_credentials(tls: TLS) -> grpc.ChannelCredentials:
    """The credentials in the files of `tls`.

    Raises `OSError` (`FileNotFoundError`, `PermissionError`, …) for a file that cannot be read and `ValueError`
    for files that do not hold what they should; both name the field and the path.
    """
    ca = _read("ca", tls.ca)
    certificate = _read("certificate", tls.certificate)
    private_key = _read("private_key", tls.private_key)
    _check(tls)
    return grpc.ssl_channel_credentials(ca, private_key, certificate)


def _read(field: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        # Given an errno, OSError makes the subclass that belongs to it.
        message = f"TLS.{field} cannot be read: {error.strerror}"
        raise OSError(error.errno, message, os.fspath(path)) from error


def _check(tls: TLS) -> None:
    # gRPC takes any bytes, and then fails each call with no more than "Failed to create security handshaker".
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        raise ValueError(f"TLS.ca ({tls.ca}) is not a file of PEM certificates") from error
    try:
        # A password, though empty, keeps OpenSSL from asking the terminal for that of an encrypted key.
        context.load_cert_chain(tls.certificate, tls.private_key, password="")
    except ssl.SSLError as error:
        raise ValueError(
            f"TLS.certificate ({tls.certificate}) and TLS.private_key ({tls.private_key}) are not a PEM"
            f" certificate and its unencrypted PEM private key: {error.reason or error}"
        ) from error
