"""Asks a keyturn service for the tokens with which signed-in customers open an Omnichannel chat.

    from datetime import timedelta

    from keyturn import TLS, Client

    tls = TLS(ca="ca.pem", certificate="frontend.pem", private_key="frontend.key")
    with Client("keyturn.internal:8443", tls=tls) as client:
        signed = client.sign(
            subject="87b4d06c-abc2-e811-a9b0-000d3a10e09e",
            context={"msdyn_cartvalue": "10000", "msdyn_isvip": "false"},
            lifetime=timedelta(minutes=15),
        )
    print(signed.token_id, signed.expires_at)  # and signed.token goes to the chat widget

A frontend makes one client when it starts and closes it when it ends. `AsyncClient` is the same for asyncio. What
may go wrong is a `KeyturnError`: `InvalidRequest` names each wrong field, `Unavailable` says when to try again.
"""

from keyturn._request import ContextValue, SignedToken
from keyturn.client import AsyncClient, Client
from keyturn.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    KeyturnError,
    NotAuthenticated,
    NotPermitted,
    Unavailable,
)
from keyturn.tls import TLS

__all__ = [
    "TLS",
    "AsyncClient",
    "Client",
    "ContextValue",
    "DeadlineExceeded",
    "FieldViolation",
    "InvalidRequest",
    "KeyturnError",
    "NotAuthenticated",
    "NotPermitted",
    "SignedToken",
    "Unavailable",
]
