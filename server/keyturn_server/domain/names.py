"""What issuers may be called."""

import re

MAX_ISS_LENGTH = 255

RESERVED_IDS = frozenset({"publickey", "publickey.pem", ".well-known", "livez", "readyz", "metrics"})
"""What the first segment of a path may be that does not name an issuer."""

_ISSUER_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def check_issuer_id(value: str) -> str:
    """The identifier of an issuer, which stands in the paths of its documents. Raises ValueError with the rule."""
    if value in RESERVED_IDS:
        raise ValueError("is a path that keyturn serves itself; choose another")
    if not _ISSUER_ID.fullmatch(value):
        raise ValueError("must be 1 to 63 of a-z, 0-9 and hyphen, and start with a letter or digit")
    return value


def check_iss(value: str) -> str:
    """The claim `iss`. Raises ValueError with the rule."""
    if not 1 <= len(value) <= MAX_ISS_LENGTH:
        raise ValueError(f"must have 1 to {MAX_ISS_LENGTH} characters")
    return value
