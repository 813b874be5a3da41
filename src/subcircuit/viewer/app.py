"""The server's routes: the page, the circuits, the progress of a search, and measurements on request."""

import json
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from subcircuit.errors import SubcircuitError
from subcircuit.report.page import script, served_html, static
from subcircuit.report.page.arrays import Json
from subcircuit.viewer.computations import Computations
from subcircuit.viewer.guard import COOKIE, Guard


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    circuit: int = Field(ge=0, le=1000)


class _Measure(_Asked):
    edges: int = Field(ge=0, le=1 << 40)
    all: bool = False
    ahead: bool = False


def make_app(computations: Computations, progress: Callable[[], Json], *, host: str, token: str) -> Guard:
    """The server as an ASGI application.

    Args:
        computations: reads and measures the circuits.
        progress: returns the progress of a search: at least ``version`` and ``running``.
        host: the address to which the server will be bound.
        token: a secret, written into the page.
    """

    async def page(request: Request) -> Response:
        answer = HTMLResponse(served_html("subcircuit", token))
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return answer

    async def prompts(request: Request) -> Response:
        asked = _Asked.model_validate_json(await request.body())
        return await _computed(lambda: computations.prompts(asked.circuit))

    async def measure(request: Request) -> Response:
        asked = _Measure.model_validate_json(await request.body())
        return await _computed(lambda: computations.measure(asked.circuit, asked.edges, not asked.all, asked.ahead))

    async def document(request: Request) -> Response:
        return await _computed(computations.document)

    async def state(request: Request) -> Response:
        return await _computed(lambda: {**progress(), "work": computations.work()})

    def text(content: Callable[[], str], media_type: str) -> Callable[[Request], Response]:
        return lambda request: Response(content(), media_type=media_type)

    routes = [
        Route("/", page),
        Route("/page.css", text(lambda: static("page.css"), "text/css")),
        Route("/page.js", text(script, "text/javascript")),
        Route("/api/document", document),
        Route("/api/progress", state),
        Route("/api/prompts", prompts, methods=["POST"]),
        Route("/api/measure", measure, methods=["POST"]),
    ]
    handlers = {ValidationError: _misunderstood, json.JSONDecodeError: _misunderstood, 404: _unknown, 405: _unknown}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), host, token)


async def _computed(compute: Callable[[], Json]) -> Response:
    try:
        return JSONResponse(await run_in_threadpool(compute))
    except SubcircuitError as error:
        # status 200, because the request is valid: a browser would report any other status as an error of the page
        return JSONResponse({"error": str(error)})


async def _misunderstood(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the request is not understood"}, status_code=422)


async def _unknown(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "there is nothing here"}, status_code=getattr(error, "status_code", 404))
