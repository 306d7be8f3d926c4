"""The two clients: one that waits for its answer, and one for asyncio. Both open mutual TLS and nothing else."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

import grpc

from keyturn._request import ContextValue, SignedToken, call_timeout, sign_token_request, signed_token
from keyturn.errors import KeyturnError, translate
from keyturn.tls import TLS, channel_credentials
from keyturn.v1 import signing_pb2_grpc

_TIMEOUT = 5.0  # seconds: the chat widget grants its token provider 10 in all
_CLOSED = "this client is closed"


class Client:
    """A connection to the signing service, opened at the first call and kept until `close`.

    Make one and share it: it may be used from several threads at once. A process that forks makes its own after
    the fork.
    """

    def __init__(self, target: str, *, tls: TLS, server_name: str | None = None) -> None:
        """A client of the service at `target`, which is `host:port`.

        `server_name` is the name to expect in the service's certificate, when that is not the target's host.

        Raises `OSError` for a file of `tls` that cannot be read, and `ValueError` for one without the right content.
        """
        self._target = target
        self._closed = False
        self._channel = grpc.secure_channel(target, channel_credentials(tls), options=_options(server_name))
        self._sign_token = signing_pb2_grpc.SigningServiceStub(self._channel).SignToken

    def __repr__(self) -> str:
        return f"Client({self._target!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Calls that still wait fail with a `KeyturnError` of code `CANCELLED`."""
        self._closed = True
        self._channel.close()

    def sign(
        self,
        *,
        subject: str,
        context: Mapping[str, ContextValue] | None = None,
        issuer: str = "",
        lifetime: timedelta | None = None,
        additional_claims: Mapping[str, object] | None = None,
        timeout: float = _TIMEOUT,
    ) -> SignedToken:
        """Signs a token for one customer. Each call makes a new one; nothing is tried again or kept.

        - `subject`: who the customer is, 1 to 255 characters; the GUID of a contact or account links the chat to it.
        - `context`: the chat's context variables by name. Each keeps its type: str, bool, int (from -(2^53-1) to
          2^53-1) or finite float.
        - `issuer`: the identifier of the issuer; needed only by callers of several.
        - `lifetime`: how long the token is valid, in whole seconds; None for the issuer's default.
        - `additional_claims`: further claims that the service allows this caller, of values that JSON can say.
        - `timeout`: seconds to wait for the answer, the connection included.

        Raises `TypeError` or `ValueError`, which name the argument, before anything is sent; `RuntimeError` when
        the client is closed; else `InvalidRequest`, `NotAuthenticated`, `NotPermitted`, `Unavailable`,
        `DeadlineExceeded`, or their base `KeyturnError`.
        """
        if self._closed:
            raise RuntimeError(_CLOSED)
        seconds = call_timeout(timeout)
        request = sign_token_request(
            subject=subject,
            context=context,
            issuer=issuer,
            lifetime=lifetime,
            additional_claims=additional_claims,
        )
        try:
            response = self._sign_token(request, timeout=seconds)
        except grpc.RpcError as error:
            raise translate(error, self._target) from error
        return signed_token(response)


class AsyncClient:
    """`Client` for asyncio: made inside a running event loop, and used in that loop alone."""

    def __init__(self, target: str, *, tls: TLS, server_name: str | None = None) -> None:
        """As `Client`; raises `RuntimeError` where no event loop runs."""
        # Without this, grpc.aio would pick a loop by itself and fail at the first call from another one.
        asyncio.get_running_loop()
        self._target = target
        self._closed = False
        self._channel = grpc.aio.secure_channel(target, channel_credentials(tls), options=_options(server_name))
        self._sign_token = signing_pb2_grpc.SigningServiceStub(self._channel).SignToken

    def __repr__(self) -> str:
        return f"AsyncClient({self._target!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Calls that still wait fail with a `KeyturnError` of code `CANCELLED`."""
        self._closed = True
        await self._channel.close()

    async def sign(
        self,
        *,
        subject: str,
        context: Mapping[str, ContextValue] | None = None,
        issuer: str = "",
        lifetime: timedelta | None = None,
        additional_claims: Mapping[str, object] | None = None,
        timeout: float = _TIMEOUT,  # noqa: ASYNC109 - becomes the deadline that the service sees as well
    ) -> SignedToken:
        """Signs a token for one customer. Arguments, answer and errors are those of `Client.sign`."""
        if self._closed:
            raise RuntimeError(_CLOSED)
        seconds = call_timeout(timeout)
        request = sign_token_request(
            subject=subject,
            context=context,
            issuer=issuer,
            lifetime=lifetime,
            additional_claims=additional_claims,
        )
        try:
            response = await self._sign_token(request, timeout=seconds)
        except grpc.RpcError as error:
            raise translate(error, self._target) from error
        except asyncio.CancelledError:
            # grpc.aio ends the calls of a closed channel as if their tasks had been cancelled, which nobody asked.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise KeyturnError("the client was closed during the call", grpc.StatusCode.CANCELLED) from None
            raise
        return signed_token(response)


def _options(server_name: str | None) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        # A token has at most 8 KiB. A refusal travels as metadata, and may name each of 100 context variables,
        # for which gRPC's default of 8 KiB is too little: it would replace the refusal by RESOURCE_EXHAUSTED.
        ("grpc.max_receive_message_length", 64 * 1024),
        ("grpc.max_metadata_size", 64 * 1024),
        # gRPC would wait up to two minutes before it looks again whether a service that was down is back.
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options
