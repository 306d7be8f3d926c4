"""A real signing service for the client's tests: it listens on mutual TLS, and answers what a test tells it to."""

import asyncio
import threading
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol, Self

import grpc
import trustme
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from keyturn import TLS, AsyncClient, SignedToken
from keyturn.v1 import signing_pb2, signing_pb2_grpc


class Authority:
    """A certificate authority that writes what it issues into a folder."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str) -> TLS:
        issued = self._authority.issue_cert(name)
        tls = TLS(ca=self.ca, certificate=self._folder / f"{name}.pem", private_key=self._folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tls.certificate)
        issued.private_key_pem.write_to_path(tls.private_key)
        return tls


def status(code: grpc.StatusCode, message: str, *details: Message) -> grpc.Status:
    """A refusal with `google.rpc` details."""
    rich = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        rich.details.add().Pack(detail)
    return rpc_status.to_status(rich)


class SigningService(signing_pb2_grpc.SigningServiceServicer):
    """Keeps each request and the seconds it had left; answers with `response`, or with `refusal` if there is one."""

    def __init__(self, tls: TLS) -> None:
        self.requests: list[signing_pb2.SignTokenRequest] = []
        self.response = signing_pb2.SignTokenResponse(token="a.b.c")
        self.refusal: grpc.Status | None = None
        self.time_remaining: list[float] = []
        self.arrived = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        signing_pb2_grpc.add_SigningServiceServicer_to_server(self, self._server)
        pair = (Path(tls.private_key).read_bytes(), Path(tls.certificate).read_bytes())
        ca = Path(tls.ca).read_bytes()
        credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=True)
        self.target = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self._server.start()

    def SignToken(  # noqa: N802 - the name in the contract
        self, request: signing_pb2.SignTokenRequest, context: grpc.ServicerContext
    ) -> signing_pb2.SignTokenResponse:
        self.requests.append(request)
        self.time_remaining.append(context.time_remaining())
        self.arrived.release()
        self.may_answer.wait()
        if self.refusal:
            context.abort_with_status(self.refusal)
        return self.response

    def stop(self) -> None:
        self.may_answer.set()
        self._server.stop(grace=None).wait()


class AnyClient(Protocol):
    """What `Client` and `AwaitedClient` have in common."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def sign(self, *, subject: str, **arguments: Any) -> SignedToken: ...


class AwaitedClient:
    """An `AsyncClient` whose every call is awaited at once, so that one test covers both clients."""

    def __init__(self, target: str, *, tls: TLS, server_name: str | None = None) -> None:
        async def connect() -> AsyncClient:
            return AsyncClient(target, tls=tls, server_name=server_name)

        self._runner = asyncio.Runner()
        try:
            self._client = self._runner.run(connect())
        except BaseException:
            self._runner.close()
            raise

    def __repr__(self) -> str:
        return repr(self._client)

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.close()

    def close(self) -> None:
        self._runner.run(self._client.close())

    def sign(self, *, subject: str, **arguments: Any) -> SignedToken:
        return self._runner.run(self._client.sign(subject=subject, **arguments))
