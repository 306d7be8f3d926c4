"""What platforms ask a service: is it alive, is it ready."""

from collections.abc import Callable, Sequence

from aiohttp import web


class Operations:
    """`/livez` never depends on the store; `/readyz` lists every reason why not."""

    def __init__(self, not_ready: Callable[[], Sequence[str]]) -> None:
        self._not_ready = not_ready

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        return application

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._not_ready()
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="ready\n")
