"""The web application: a page, and an answer for each image that is posted to /explain.

Memory stays bounded: at most MAX_WAITING images are held, of limits.UPLOAD_BYTES each, and one is
decoded at a time. When all places are taken, others are told to come again.
"""

import asyncio
import base64
import concurrent.futures
import os
from typing import Any, Callable, Dict, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common import limits
from common.demo import uploads
from common.errors import UserError

# Images that wait for their answer, or are being received.
MAX_WAITING = 16
# Seconds for an image to arrive.
_PATIENCE = 60

_PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
_FILES = {
    "/": ("text/html", "page.html"),
    "/page.css": ("text/css", "../../base.css", "page.css"),
    "/page.js": ("text/javascript", "page.js"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _RefusedError(Exception):
    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def make(
    answer: Callable[[uploads.Upload], Dict[str, Any]], title: str, hosts: Sequence[str]
) -> Starlette:
    """The application.

    Args:
        answer: of an image, as JSON takes it; it runs in a thread, one call at a time. It raises
            UserError where there is none.
        title: what the page says of the model.
        hosts: names that the page may be asked for by; others are web sites that have made their
            name that of this machine (DNS rebinding). '*' for any.
    """
    explainer = _Explainer(answer, title)
    routes = [Route(path, _file(*file)) for path, file in _FILES.items()]
    routes.append(Route("/about", explainer.about))
    routes.append(Route("/explain", explainer.explain, methods=["POST"]))
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return Starlette(routes=routes, middleware=[trusted])


def _file(media_type: str, *names: str):
    """An endpoint that answers with the contents of some files, one after another."""
    content = b""
    for name in names:
        with open(os.path.join(_PAGE, name), "rb") as file:
            content += file.read()

    async def endpoint(request: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)

    return endpoint


class _Explainer:
    """The endpoints that the page's script calls; their state is that of one event loop."""

    def __init__(self, answer: Callable[[uploads.Upload], Dict[str, Any]], title: str):
        self._answer = answer
        self._title = title
        self._waiting = 0
        self._worker = concurrent.futures.ThreadPoolExecutor(1)

    async def about(self, request: Request) -> Response:
        found = {"title": self._title, "max_bytes": limits.UPLOAD_BYTES}
        return JSONResponse({**found, "too_large": uploads.too_many_bytes()}, headers=_HEADERS)

    async def explain(self, request: Request) -> Response:
        try:
            return JSONResponse(await self._explain(request), headers=_HEADERS)
        except _RefusedError as error:
            headers = {**_HEADERS, "Retry-After": "1"} if error.status == 503 else _HEADERS
            return JSONResponse({"error": str(error)}, error.status, headers)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 422, headers=_HEADERS)

    async def _explain(self, request: Request) -> Dict[str, Any]:
        origin = request.headers.get("origin")
        if origin not in (None, f"{request.url.scheme}://{request.headers.get('host')}"):
            raise _RefusedError(403, "Other web sites may not send images.")
        if self._waiting >= MAX_WAITING:
            await _receive(request, 0)
            raise _RefusedError(503, "Too many images are waiting; try again in a moment.")
        self._waiting += 1
        try:
            encoded = await _receive(request, limits.UPLOAD_BYTES)
            loop = asyncio.get_event_loop()
            return await loop.run_in_executor(self._worker, self._decode_and_answer, encoded)
        finally:
            self._waiting -= 1

    def _decode_and_answer(self, encoded: bytes) -> Dict[str, Any]:
        upload = uploads.read(encoded)
        picture = base64.b64encode(upload.shown()).decode("ascii")
        shown = {"picture": picture, "width": upload.width, "height": upload.height}
        return {**self._answer(upload), **shown}


async def _receive(request: Request, most: int) -> bytes:
    """The body, or as much of it as shows that it is too long.

    It is received to its end all the same: a browser that is still sending does not listen.
    """
    try:
        received = await asyncio.wait_for(_first_bytes(request, most + 1), _PATIENCE)
    except asyncio.TimeoutError:
        raise _RefusedError(408, "The image did not arrive in time.") from None
    except ClientDisconnect:
        raise _RefusedError(400, "The image did not arrive.") from None
    if most and len(received) > most:
        raise _RefusedError(413, uploads.too_many_bytes())
    return received


async def _first_bytes(request: Request, count: int) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk[: count - len(received)]
    return bytes(received)
