"""The service, wired: the only place that builds the adapters of a running service and owns its signals."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import structlog
from aiohttp import web

from keyturn_server.administration import Administration
from keyturn_server.config import Address, Configuration
from keyturn_server.crypto.kek import Kek, read_kek_file
from keyturn_server.crypto.rsa_keys import RsaPrivateKeys
from keyturn_server.crypto.stamp import open_stamp
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.drift import drift
from keyturn_server.grpc.key_service import KeyService
from keyturn_server.grpc.listeners import Listener, ServerTLS, admin_listener, signing_listener
from keyturn_server.grpc.signing_service import SigningService
from keyturn_server.http.operations import Operations
from keyturn_server.http.publisher import Publisher
from keyturn_server.http.site import Site
from keyturn_server.ledger import Ledger
from keyturn_server.maintenance import Maintenance
from keyturn_server.ports import RingSeal, Store
from keyturn_server.process import SystemClock
from keyturn_server.publishing import Publishing
from keyturn_server.readiness import Readiness
from keyturn_server.rings import Rings
from keyturn_server.rotation import Rotation
from keyturn_server.signers import Signers
from keyturn_server.signing import Signing
from keyturn_server.storage.sql import SqlStore

log = structlog.get_logger(__name__)

FORCED = 1
"""The exit code after a second signal."""


async def serve(configuration: Configuration) -> None:
    """Serves until SIGTERM or SIGINT, drains, and returns. A second signal ends the process at once.

    Raises `ConfigurationError` where it cannot start; then nothing in the store was changed.
    """
    stop = _stop_on_signal()
    async with AsyncExitStack() as closing:
        store = SqlStore.open(configuration.storage.url)
        closing.push_async_callback(store.close)
        service = await _build(configuration, store)
        closing.push_async_callback(service.stop)
        await service.start()
        await stop.wait()
        log.info("draining", at_most=str(configuration.signing.drain))
    log.info("stopped")


async def _build(configuration: Configuration, store: SqlStore) -> "Service":
    """Wires one replica."""
    kek, seal = await unlock(configuration, store)
    clock = SystemClock()
    private_keys = RsaPrivateKeys(kek)
    ledger = Ledger(store, seal)
    signers = Signers(store, private_keys)
    rings = Rings(ledger, signers, clock)
    readiness = Readiness(rings)
    signing = Signing(rings, signers, configuration.token_rules(), clock)
    administration = Administration(ledger, rings, private_keys, clock)
    publisher = Publisher(Publishing(rings, clock), default_issuer=configuration.default_issuer)
    return Service(
        maintenance=Maintenance(rings, Rotation(ledger, rings, private_keys, clock, random.random)),
        poll_interval=configuration.storage.poll_interval,
        drift=lambda: (
            drift(configuration.policies(), configuration.iss_claims(), rings.all()) if rings.refreshed else ()
        ),
        readiness=readiness,
        drain=configuration.signing.drain,
        signing=signing_listener(
            SigningService(signing, configuration.known_callers()),
            str(configuration.signing.listen),
            _server_tls(configuration),
            configuration.signing.max_message_bytes,
        ),
        admin=admin_listener(KeyService(administration, clock), configuration.admin.listen),
        publisher=_site("publisher.listen", publisher.application(), configuration.publisher.listen),
        operations=_site(
            "operations.listen", Operations(readiness.reasons).application(), configuration.operations.listen
        ),
    )


async def unlock(configuration: Configuration, store: Store) -> tuple[Kek, RingSeal]:
    """The keys to a store that `init` has set up with this KEK and this integrity key. No other store is served."""
    kek = read_kek_file(configuration.kek.file)
    stamp = await store.read_stamp()
    if stamp is None:
        raise ConfigurationError("storage.url: this store was never set up: run `keyturn init`, or name the right one")
    return kek, open_stamp(stamp, kek, configuration.integrity.public_key)


class Service:
    """One replica: its listeners and its heartbeat."""

    def __init__(
        self,
        *,
        maintenance: Maintenance,
        poll_interval: timedelta,
        drift: Callable[[], Iterable[tuple[str, str]]],
        readiness: Readiness,
        drain: timedelta,
        signing: Listener,
        admin: Listener,
        publisher: Site,
        operations: Site,
    ) -> None:
        self._maintenance = maintenance
        self._poll_interval = poll_interval
        self._drift = drift
        self._drift_told: set[tuple[str, str]] = set()
        self._readiness = readiness
        self._drain = drain
        self._signing = signing
        self._admin = admin
        self._publisher = publisher
        self._operations = operations
        self._heartbeat: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens every listener, then begins to read the store; ready from the first reading on."""
        await self._operations.start()
        await self._publisher.start()
        await self._signing.start()
        await self._admin.start()
        log.info(
            "serving",
            signing=self._signing.address,
            admin=self._admin.address,
            publisher=self._publisher.address,
            operations=self._operations.address,
        )
        self._heartbeat = asyncio.create_task(self._maintenance.run(self._poll_interval, self._after_step))

    async def stop(self) -> None:
        """Takes no new calls, finishes those under way within the grace, then closes everything."""
        self._readiness.drain()
        await self._tell_health()
        await self._signing.stop(self._drain)
        await self._admin.stop(self._drain)
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.gather(self._heartbeat, return_exceptions=True)
        await self._publisher.stop()
        await self._operations.stop()

    async def _after_step(self) -> None:
        await self._tell_health()
        drifted = set(self._drift())
        for issuer, what in sorted(drifted - self._drift_told):
            log.warning("configuration is not in force", issuer=issuer, what=what)
        self._drift_told = drifted

    async def _tell_health(self) -> None:
        await self._signing.set_ready(ready=not self._readiness.reasons())


def _site(setting: str, application: web.Application, address: Address) -> Site:
    return Site(setting, application, address.host, address.port)


def _server_tls(configuration: Configuration) -> ServerTLS:
    signing = configuration.signing
    return ServerTLS(
        certificate=_read("signing.certificate", signing.certificate),
        private_key=_read("signing.private_key", signing.private_key),
        client_ca=_read("signing.client_ca", signing.client_ca),
    )


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: cannot read {path}: {error.strerror}") from error


def _stop_on_signal() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(FORCED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop
