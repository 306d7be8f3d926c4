"""The kinds of values that settings have, and how an operator writes them.

No message here repeats the value: it may be a secret that stands in the wrong place.
"""

import base64
import binascii
import ipaddress
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import durationpy
from pydantic import AfterValidator, BeforeValidator, PlainValidator

from keyturn_server.domain.names import check_issuer_id

MAX_NAME_LENGTH = 255
MAX_DURATION = timedelta(days=3650)
"""Ten years: any sum of such durations is still a duration, and so is any date that lies one ahead."""

SQLITE = "sqlite:///"

_DURATION = re.compile(r"([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d|w))+")
_DURATION_HINT = 'must be a duration with a unit, such as "30d", "12h", "5m" or "500ms"'
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)):(?P<port>[0-9]{1,5})")
_ADDRESS_HINT = 'must be "host:port", such as "127.0.0.1:8443", "0.0.0.0:8443" or "[::1]:8443"'
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_duration(value: Any) -> timedelta:
    """The duration that a text such as `1h30m` says. Raises ValueError for anything else."""
    if isinstance(value, str) and value.startswith("-"):
        raise ValueError("must not be negative")
    # durationpy passes over what stands between two numbers with units, and knows months as "mm": the pattern does not.
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(_DURATION_HINT)
    try:
        duration: timedelta = durationpy.from_str(value)
    except (ValueError, OverflowError):
        duration = timedelta.max
    if duration > MAX_DURATION:
        raise ValueError(f"must be at most {MAX_DURATION.days}d")
    return duration


def parse_address(value: Any) -> Address:
    """The address that `host:port` says, an IPv6 host in brackets. Raises ValueError for anything else."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_ADDRESS_HINT)
    if match["ipv6"] is not None:
        try:
            ipaddress.IPv6Address(match["ipv6"])
        except ValueError:
            raise ValueError("has no IPv6 address in its brackets") from None
    port = int(match["port"])
    if port > _MAX_PORT:
        raise ValueError(f"must have a port of 0 to {_MAX_PORT}")
    return Address(match["ipv6"] or match["host"], port)


def place_database(url: str, folder: Path) -> str:
    """The URL with a relative SQLite path resolved against the folder. Paths in URLs are percent-encoded."""
    path = url.removeprefix(SQLITE)
    if path == url or path.startswith("/"):
        return url
    return f"{SQLITE}{quote(os.fsencode(folder)).rstrip('/')}/{path}"


def _check_at_least(least: timedelta, shown: str, value: timedelta) -> timedelta:
    if value < least:
        raise ValueError(f"must be at least {shown}")
    return value


def _check_lifetime(value: timedelta) -> timedelta:
    return _check_at_least(timedelta(seconds=1), "1s", value)


def _check_interval(value: timedelta) -> timedelta:
    return _check_at_least(timedelta(milliseconds=10), "10ms", value)


def _parse_path(value: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a path in quotes")
    return Path(value)


def _check_name(value: str) -> str:
    if not 1 <= len(value) <= MAX_NAME_LENGTH:
        raise ValueError(f"must have 1 to {MAX_NAME_LENGTH} characters")
    return value


def _check_base64(value: str) -> str:
    try:
        decoded = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        decoded = b""
    if not decoded:
        raise ValueError("must be base64 text: the line that keyturn init wrote")
    return value


def _check_database(value: str) -> str:
    if not value.startswith(SQLITE):
        raise ValueError(f'must start with "{SQLITE}"')
    path = value.removeprefix(SQLITE)
    if not path or path.startswith(":memory:"):
        raise ValueError(f"must name a file after {SQLITE}: a database in memory would lose every key")
    if "?" in path or "#" in path:
        raise ValueError("must be a plain path: keyturn sets the options of SQLite itself")
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Lifetime = Annotated[Duration, AfterValidator(_check_lifetime)]
Interval = Annotated[Duration, AfterValidator(_check_interval)]
ListenAddress = Annotated[Address, PlainValidator(parse_address)]
FilePath = Annotated[Path, PlainValidator(_parse_path)]
Name = Annotated[str, AfterValidator(_check_name)]
IssuerId = Annotated[str, AfterValidator(check_issuer_id)]
Base64 = Annotated[str, AfterValidator(_check_base64)]
DatabaseUrl = Annotated[str, AfterValidator(_check_database)]
