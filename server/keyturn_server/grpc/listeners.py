"""The two gRPC listeners: mutual TLS for callers, a Unix socket for operators."""

import os
import stat
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from keyturn.v1 import keys_pb2, keys_pb2_grpc, signing_pb2, signing_pb2_grpc
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.grpc.key_service import KeyService
from keyturn_server.grpc.signing_service import SigningService

SIGNING_SERVICE = signing_pb2.DESCRIPTOR.services_by_name["SigningService"].full_name
KEY_SERVICE = keys_pb2.DESCRIPTOR.services_by_name["KeyService"].full_name


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """PEM bytes for a listener that demands client certificates of one authority."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes


class Listener:
    """A gRPC server with the standard health service, which tells whether it takes calls."""

    def __init__(self, service: str, address: str, options: list[tuple[str, int]]) -> None:
        self.address = address
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
        self._service = service
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    async def start(self) -> None:
        await self.server.start()

    async def set_ready(self, *, ready: bool) -> None:
        """What the health service answers for the whole server and for the service by name."""
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", serving)
        await self._health.set(self._service, serving)

    async def stop(self, grace: timedelta) -> None:
        """Takes no new calls; lets those under way finish for `grace`, then ends them."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(grace.total_seconds())


def signing_listener(service: SigningService, address: str, tls: ServerTLS, max_message_bytes: int) -> Listener:
    """The callers' listener. Raises `ConfigurationError` that names the setting."""
    listener = Listener(SIGNING_SERVICE, address, [("grpc.max_receive_message_length", max_message_bytes)])
    signing_pb2_grpc.add_SigningServiceServicer_to_server(service, listener.server)
    try:
        credentials = grpc.ssl_server_credentials(
            [(tls.private_key, tls.certificate)], root_certificates=tls.client_ca, require_client_auth=True
        )
        listener.server.add_secure_port(address, credentials)
    except (RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"signing.listen: cannot listen on {address}; is the port taken, and are signing.certificate, "
            "signing.private_key and signing.client_ca PEM files that belong together?"
        ) from error
    return listener


def admin_listener(service: KeyService, socket: Path) -> Listener:
    """The operators' listener. Its folder is made if need be, and must be closed to everyone else.

    Raises `ConfigurationError` that names the setting.
    """
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = socket.parent.stat()
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"admin.listen: the folder {socket.parent} must belong to the user of the service and be closed to others: "
            f"chmod 700 {socket.parent}"
        )
    listener = Listener(KEY_SERVICE, f"unix:{socket}", [])
    keys_pb2_grpc.add_KeyServiceServicer_to_server(service, listener.server)
    try:
        listener.server.add_insecure_port(listener.address)
    except RuntimeError as error:
        raise ConfigurationError(f"admin.listen: cannot listen on {socket}") from error
    socket.chmod(0o600)
    return listener
