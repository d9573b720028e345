"""The viewer's web server. No request names a file: slides and maps are asked for by number."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from patch2tissue.viewer.layers import TILE, deepest_level
from patch2tissue.viewer.scenes import Viewer
from patch2tissue.web.serving import LOCAL_HOSTS, guarded_app

STATIC = Path(__file__).parent / "static"
_KEPT = {"Cache-Control": "private, max-age=600"}


def view_app(viewer: Viewer, token: str, hosts: tuple[str, ...] = LOCAL_HOSTS) -> Starlette:
    """The web application.

    Args:
        viewer: what is looked at.
        token: first part of every path that is answered.
        hosts: see `guarded_app`.
    """

    async def page(request: Request) -> Response:
        return Response((STATIC / "view.html").read_bytes(), media_type="text/html; charset=utf-8")

    async def scenes(request: Request) -> Response:
        found = [{"name": scene.name, "maps": len(scene.maps)} for scene in viewer.scenes]
        return JSONResponse({"scenes": found, "tile": TILE})

    async def scene(request: Request) -> Response:
        found = await run_in_threadpool(viewer.describe, request.path_params["scene"])
        for layer in (found, *found["maps"]):
            layer["deepest"] = deepest_level(layer["width"], layer["height"])
        return JSONResponse(found)

    async def slide_tile(request: Request) -> Response:
        number, level, column, row = (request.path_params[name] for name in ("scene", "level", "column", "row"))
        content = await run_in_threadpool(viewer.slide_tile, number, level, column, row)
        return Response(content, media_type="image/jpeg", headers=_KEPT)

    async def map_tile(request: Request) -> Response:
        number, index, level, column, row = (
            request.path_params[name] for name in ("scene", "map", "level", "column", "row")
        )
        shown = tuple(digit == "1" for digit in request.query_params.get("shown", "1" * 255)[:255])
        content = await run_in_threadpool(viewer.map_tile, number, index, level, column, row, shown)
        return Response(content, media_type="image/png", headers=_KEPT)

    place = "{level:int}/{column:int}_{row:int}"
    routes = [
        Route("/", page),
        Route("/api/scenes", scenes),
        Route("/api/scenes/{scene:int}", scene),
        Route("/scenes/{scene:int}/slide/" + place, slide_tile),
        Route("/scenes/{scene:int}/maps/{map:int}/" + place, map_tile),
    ]
    return guarded_app(routes, STATIC, token, hosts)
