"""An HTTP application at an address."""

from aiohttp import web

from keyturn_server.domain.errors import ConfigurationError


class Site:
    """Serves one application; `setting` is what to name when its address cannot be had."""

    def __init__(self, setting: str, application: web.Application, host: str, port: int) -> None:
        self.address = f"{host}:{port}"
        self._setting = setting
        self._host = host
        self._port = port
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> None:
        """Listens. Raises `ConfigurationError` where it cannot."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            raise ConfigurationError(f"{self._setting}: cannot listen on {self.address}: {error.strerror}") from error

    async def stop(self) -> None:
        await self._runner.cleanup()
