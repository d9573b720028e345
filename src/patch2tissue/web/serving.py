"""Serving a page: everything lies below a random token, to this machine alone unless it is asked for."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Sequence
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
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patch2tissue.errors import ConfigError, DataError, Patch2TissueError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""

SHARED = Path(__file__).parent / "static"
_LARGEST_BODY = 64 * 1024

_HEADERS = {
    # the token is part of the address, which must not be told to others
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # styles in the page itself: OpenSeadragon makes some
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'",
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
            text = "This address lacks the token. Open the whole address that the command printed."
            await JSONResponse({"error": text}, status_code=403)(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in headers if pair[0] not in given)]
            await send(message)

        await self._app(scope, receive, send_guarded)


def guarded_app(routes: Sequence[BaseRoute], static: Path, token: str, hosts: tuple[str, ...]) -> Starlette:
    """A web application whose every path lies below a token.

    Args:
        routes: of the page; `/static/`, and `/shared/` with what all pages share, are added.
        static: folder of files that are sent as they are.
        token: first part of every path that is answered.
        hosts: names under which the page may be asked for, so that no other site's name can be made to lead here.
    """
    files = {"/static": static, "/shared": SHARED}
    below = [*routes, *(Mount(path, StaticFiles(directory=folder)) for path, folder in files.items())]
    names = list(hosts) if "*" not in hosts else ["*"]
    return Starlette(
        routes=[Mount(f"/{token}", routes=below)],
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
        text = "There is nothing of that number." if isinstance(error, IndexError) else str(error)
        return JSONResponse({"error": text}, status_code=status or 500)

    return handler


def query_text(request: Request, name: str) -> str:
    """A parameter that must be there.

    Raises:
        HTTPException: 400 if it is not.
    """
    value = request.query_params.get(name, "")
    if not value:
        raise HTTPException(400, f"{name} is missing")
    return value


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent.

    Raises:
        HTTPException: 415, 413 or 400 if it is none, or too large.
    """
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
    try:
        plain = json.loads(content)
    except RecursionError:
        raise ValueError from None
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
