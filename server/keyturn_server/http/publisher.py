"""The public documents over HTTP."""

import functools
import math
from collections.abc import Callable

from aiohttp import web

from keyturn_server.domain.documents import Document, Documents
from keyturn_server.domain.errors import NotFoundError, UnavailableError
from keyturn_server.publishing import Publishing

Choice = Callable[[Documents], Document | None]

PATHS: dict[str, Choice] = {
    "publickey": lambda documents: documents.key_array,
    ".well-known/jwks.json": lambda documents: documents.jwks,
    "publickey.pem": lambda documents: documents.pem,
}
"""What stands behind an issuer's name in the URL of each of its documents."""

VERSION_HEADER = "Keyturn-Ring-Version"


class Publisher:
    """Serves every issuer's documents; the unprefixed paths are those of the default issuer."""

    def __init__(self, publishing: Publishing, *, default_issuer: str | None) -> None:
        self._publishing = publishing
        self._default_issuer = default_issuer

    def application(self) -> web.Application:
        application = web.Application()
        for path, choose in PATHS.items():
            handler = functools.partial(self._answer, choose)
            application.router.add_get(f"/{{issuer}}/{path}", handler)
            if self._default_issuer is not None:
                application.router.add_get(f"/{path}", handler)
        return application

    async def _answer(self, choose: Choice, request: web.Request) -> web.Response:
        """The document, or 304 for one that the client has, 404 for an unknown issuer, 503 while none can be
        trusted.
        """
        issuer = request.match_info.get("issuer", self._default_issuer)
        try:
            documents = self._publishing.documents(str(issuer))
        except NotFoundError:
            return web.Response(status=404, text="There is no such issuer.\n")
        except UnavailableError as error:
            return _unavailable(error)
        document = choose(documents)
        if document is None:
            return _unavailable(UnavailableError("no key may sign now", reason="NO_SIGNER"))
        headers = {
            "Access-Control-Allow-Origin": "*",
            "Cache-Control": f"public, max-age={int(documents.max_age.total_seconds())}",
            "ETag": document.etag,
            "X-Content-Type-Options": "nosniff",
            VERSION_HEADER: str(documents.ring_version),
        }
        if _has(request, document.etag):
            return web.Response(status=304, headers=headers)
        return web.Response(body=document.body, headers={**headers, "Content-Type": document.content_type})


def _has(request: web.Request, etag: str) -> bool:
    """Whether the client holds this version already (RFC 9110, section 13.1.2: a weak comparison)."""
    return any(held.value in {"*", etag.strip('"')} for held in request.if_none_match or ())


def _unavailable(error: UnavailableError) -> web.Response:
    seconds = math.ceil(error.retry_after.total_seconds())
    headers = {"Retry-After": str(seconds), "Cache-Control": "no-store"}
    return web.Response(status=503, headers=headers, text=f"{error.message}\n")
