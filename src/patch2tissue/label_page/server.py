"""The labelling page's web server: everything lies below a random token, and no request names a file."""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
from patch2tissue.label_page.session import LabelSession

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""

STATIC = Path(__file__).parent / "static"
_LARGEST_BODY = 64 * 1024
_MOST_ASKED = 100

_HEADERS = {
    # the token is part of the address, which must not be told to others
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


class _Guard:
    """Lets requests below `/TOKEN/` through, and those alone; adds headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        first = scope["path"].split("/")[1] if "/" in scope["path"] else ""
        if not secrets.compare_digest(first.encode(), self._token.encode()):
            text = "This address lacks the token. Open the whole address that `patch2tissue label` printed."
            await JSONResponse({"error": text}, status_code=403)(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in headers if pair[0] not in given)]
            await send(message)

        await self._app(scope, receive, send_guarded)


def label_app(session: LabelSession, token: str, hosts: tuple[str, ...] = LOCAL_HOSTS) -> Starlette:
    """The web application.

    Args:
        session: what is labelled.
        token: first part of every path that is answered.
        hosts: names under which the page may be asked for, so that no other site's name can be made to lead here.
    """

    async def page(request: Request) -> Response:
        return Response((STATIC / "label.html").read_bytes(), media_type="text/html; charset=utf-8")

    async def about(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(session.describe))

    async def following(request: Request) -> Response:
        annotator = _text(request, "annotator")
        try:
            count = int(request.query_params.get("count", "10"))
            waiting = [int(index) for index in request.query_params.get("waiting", "").split(",") if index]
        except ValueError:
            raise HTTPException(400, "count and waiting are whole numbers") from None
        count = max(1, min(_MOST_ASKED, count))
        return JSONResponse({"patches": await run_in_threadpool(session.next, annotator, count, waiting)})

    async def answers(request: Request) -> Response:
        new = await run_in_threadpool(session.answer, await _body(request))
        return JSONResponse({"new": new})

    async def undo(request: Request) -> Response:
        body = await _body(request)
        return JSONResponse({"patch": await run_in_threadpool(session.undo, str(body.get("annotator", "")))})

    async def progress(request: Request) -> Response:
        annotator = request.query_params.get("annotator") or None
        return JSONResponse(await run_in_threadpool(session.progress, annotator))

    async def picture(request: Request) -> Response:
        content, kind = await run_in_threadpool(session.picture, request.path_params["index"])
        # patches do not change while they are labelled; the page looks at each twice, ahead and when it is its turn
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    async def context(request: Request) -> Response:
        content = await run_in_threadpool(session.context, request.path_params["index"])
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    routes = [
        Route("/", page),
        Route("/api/about", about),
        Route("/api/next", following),
        Route("/api/answers", answers, methods=["POST"]),
        Route("/api/undo", undo, methods=["POST"]),
        Route("/api/progress", progress),
        Route("/patches/{index:int}/picture", picture),
        Route("/patches/{index:int}/context", context),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    names = list(hosts) if "*" not in hosts else ["*"]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(_Guard, token=token)],
        exception_handlers={
            ConfigError: _as_json(400),
            DataError: _as_json(422),
            Patch2TissueError: _as_json(500),
            IndexError: _as_json(404),
            HTTPException: _as_json(None),
        },
    )


def _as_json(status: int | None) -> Any:
    async def handler(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, status_code=error.status_code)
        text = "There is no such patch." if isinstance(error, IndexError) else str(error)
        return JSONResponse({"error": text}, status_code=status or 500)

    return handler


def _text(request: Request, name: str) -> str:
    value = request.query_params.get(name, "")
    if not value:
        raise HTTPException(400, f"{name} is missing")
    return value


async def _body(request: Request) -> dict[str, Any]:
    # a form of another site cannot send this type without being asked first
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "send application/json")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _LARGEST_BODY:
            raise HTTPException(413, "this is too much")
    try:
        plain = await run_in_threadpool(_parsed, bytes(content))
    except ValueError:
        raise HTTPException(400, "this is no JSON object") from None
    return plain


def _parsed(content: bytes) -> dict[str, Any]:
    plain = json.loads(content)
    if not isinstance(plain, dict):
        raise ValueError
    return plain


def listening_socket(host: str, port: int, *, or_any: bool = False) -> socket.socket:
    """A socket that listens already, so that the address is known before the server runs.

    Args:
        host: address to bind.
        port: 0 for any free one.
        or_any: take any free one if this one is taken.

    Raises:
        ConfigError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere this lets two servers have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if or_any:
            return listening_socket(host, 0)
        raise ConfigError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}. Choose another --port, or 0 for any."
        ) from None
    return listener


def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve until the process is told to stop (Ctrl-C)."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])
