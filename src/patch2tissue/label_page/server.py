"""The labelling page's web server. No request names a file: patches are asked for by number."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from patch2tissue.label_page.session import LabelSession
from patch2tissue.web.serving import LOCAL_HOSTS, guarded_app, json_body, query_text

STATIC = Path(__file__).parent / "static"
_MOST_ASKED = 100


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
        annotator = query_text(request, "annotator")
        try:
            count = int(request.query_params.get("count", "10"))
            waiting = [int(index) for index in request.query_params.get("waiting", "").split(",") if index]
        except ValueError:
            raise HTTPException(400, "count and waiting are whole numbers") from None
        count = max(1, min(_MOST_ASKED, count))
        return JSONResponse({"patches": await run_in_threadpool(session.next, annotator, count, waiting)})

    async def answers(request: Request) -> Response:
        new = await run_in_threadpool(session.answer, await json_body(request))
        return JSONResponse({"new": new})

    async def undo(request: Request) -> Response:
        body = await json_body(request)
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
    ]
    return guarded_app(routes, STATIC, token, hosts)
