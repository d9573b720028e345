"""The viewer's web server. No request names a file: slides, patches and layers are asked for by number."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from patch2tissue.viewer.layers import TILE, Look, deepest_level, heat_colours
from patch2tissue.viewer.viewer import Viewer
from patch2tissue.web.serving import LOCAL_HOSTS, guarded_app, json_body

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
        found = [{"name": scene.name, "group": scene.group} for scene in viewer.scenes]
        heat = await run_in_threadpool(heat_colours)
        return JSONResponse({"scenes": found, "tile": TILE, "heat": heat[::15].tolist()})

    async def scene(request: Request) -> Response:
        found = await run_in_threadpool(viewer.describe, request.path_params["scene"])
        for layer in (found, *found["layers"]):
            layer["deepest"] = deepest_level(layer["width"], layer["height"])
        return JSONResponse(found)

    async def shares(request: Request) -> Response:
        number, index = request.path_params["scene"], request.path_params["layer"]
        return JSONResponse(
            {"tissues": await run_in_threadpool(viewer.shares, number, index, _number(request, "epoch"))}
        )

    async def slide_tile(request: Request) -> Response:
        number, level, column, row = (request.path_params[name] for name in ("scene", "level", "column", "row"))
        content = await run_in_threadpool(viewer.slide_tile, number, level, column, row)
        return Response(content, media_type="image/jpeg", headers=_KEPT)

    async def thumbnail(request: Request) -> Response:
        content = await run_in_threadpool(viewer.thumbnail, request.path_params["scene"])
        return Response(content, media_type="image/jpeg", headers=_KEPT)

    async def layer_tile(request: Request) -> Response:
        number, index, level, column, row = (
            request.path_params[name] for name in ("scene", "layer", "level", "column", "row")
        )
        shown = tuple(digit == "1" for digit in request.query_params.get("shown", "")[:255])
        look = Look(shown, _number(request, "heat"), _number(request, "epoch"))
        content = await run_in_threadpool(viewer.layer_tile, number, index, level, column, row, look)
        return Response(content, media_type="image/png", headers=_KEPT)

    async def mark_wrong(request: Request) -> Response:
        number, body = request.path_params["scene"], await json_body(request)
        try:
            x, y = float(body["x"]), float(body["y"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise HTTPException(400, "x and y are numbers") from None
        marked = await run_in_threadpool(viewer.mark_wrong, number, x, y)
        return JSONResponse({"marked": marked, "wrong": await run_in_threadpool(viewer.wrong, number)})

    async def take_back(request: Request) -> Response:
        number, body = request.path_params["scene"], await json_body(request)
        done = await run_in_threadpool(viewer.take_back, number, str(body.get("patch", "")))
        return JSONResponse({"done": done, "wrong": await run_in_threadpool(viewer.wrong, number)})

    place = "{level:int}/{column:int}_{row:int}"
    routes = [
        Route("/", page),
        Route("/api/scenes", scenes),
        Route("/api/scenes/{scene:int}", scene),
        Route("/api/scenes/{scene:int}/layers/{layer:int}/shares", shares),
        Route("/api/scenes/{scene:int}/wrong", mark_wrong, methods=["POST"]),
        Route("/api/scenes/{scene:int}/right", take_back, methods=["POST"]),
        Route("/scenes/{scene:int}/thumbnail", thumbnail),
        Route("/scenes/{scene:int}/slide/" + place, slide_tile),
        Route("/scenes/{scene:int}/layers/{layer:int}/" + place, layer_tile),
    ]
    return guarded_app(routes, STATIC, token, hosts)


def _number(request: Request, name: str) -> int | None:
    """A parameter that is a whole number, None if it is not there.

    Raises:
        HTTPException: 400 if it is no number.
    """
    value = request.query_params.get(name)
    if value is None:
        return None
    if not value.isdecimal() or len(value) > 9:
        raise HTTPException(400, f"{name} is a whole number")
    return int(value)
