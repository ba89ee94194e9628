"""The application of `puna serve`: the endpoints, and pages to look at runs.

`create_app(Worker(catalogue(Path("runs/mine"))), runs=Path("runs"))` is what uvicorn is given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from puna.core.errors import UserError
from puna.gateway import messages
from puna.gateway.describe import described
from puna.gateway.reading import BadRequest
from puna.gateway.wire import DIALECTS, Dialect, body_of, complaint
from puna.serve.answers import prepare, prompts_of
from puna.serve.browse import browse_router
from puna.serve.keyring import Keyring
from puna.serve.keys import Gate
from puna.serve.metrics import Metrics
from puna.serve.streams import Exchange, streamed, watch, whole
from puna.serve.tickets import Gone, Overloaded, Ticket
from puna.serve.worker import Worker

PAGES = Path(__file__).parent / "pages"


_COUNT = "/v1/messages/count_tokens"


class Desk:
    """Where requests for answers come in: it hands them to the worker, and what it says back."""

    def __init__(self, worker: Worker, metrics: Metrics) -> None:
        self.worker, self.metrics = worker, metrics
        self.names, self.started = list(worker.models), int(time.time())
        self.open: set[Ticket] = set()

    def described(self, name: str) -> dict[str, Any]:
        """A model as it is listed. Raises BadRequest where there is none of that name."""
        if name not in self.worker.models:
            what = f"no model {name[:100]!r}; there are {', '.join(self.names)}"
            raise BadRequest(what, "model", "model_not_found", 404)
        return {"id": name, "object": "model", "created": self.started, "owned_by": "puna"}

    def gauges(self) -> dict[str, tuple[str, float]]:
        """What /metrics says of this moment."""
        running = sum(t.begun for t in self.open)
        return {
            "puna_requests_running": ("Requests being decoded.", running),
            "puna_requests_queued": ("Requests that wait.", len(self.open) - running),
            "puna_generated_tokens_total": ("Tokens drawn.", self.worker.generated),
        }

    async def answer(self, dialect: Dialect, request: Request) -> Response:
        """One request, from its body to its answer."""
        asked = dialect.read(await body_of(request))
        name = asked.model or self.names[0]
        self.described(name)
        job = await prepare(await self.worker.model(name), name, asked, dialect.prefix)
        writer = dialect.writer(asked, job.head)
        self.open.add(job.ticket)

        def close(cost: int) -> None:
            self.open.discard(job.ticket)
            request.scope["puna.cost"] = cost

        watching = asyncio.ensure_future(watch(request.receive, job.ticket))
        events = self.worker.submit(job.ticket)
        exchange = Exchange(job, events, self.metrics, watching, close)
        return await (streamed if asked.stream else whole)(exchange, writer)

    async def count(self, request: Request) -> Response:
        """How many tokens a conversation has, in Anthropic's form."""
        asked = messages.read(await body_of(request), counting=True)
        name = asked.model or self.names[0]
        self.described(name)
        model = await self.worker.model(name)
        found, _ = await asyncio.to_thread(prompts_of, model.engine.tokenizer, name, asked)
        return JSONResponse({"input_tokens": len(found[0])})


def create_app(
    worker: Worker,
    runs: Path,
    *,
    keys: Keyring | None = None,
    origins: Collection[str] = (),
    home: Path | None = None,
) -> Gate:
    """The ASGI application over a worker's models, the first of which is the default.

    `runs` is the folder whose runs the pages show, `home` the run that the chat's examples are of.
    `keys` are what requests must carry one of (None: none, and only this machine is answered);
    `origins` are other sites whose pages may ask.
    """
    metrics = Metrics()
    desk = Desk(worker, metrics)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="Puna", lifespan=life, docs_url=None, redoc_url=None)
    _complaints(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def measured() -> Response:
        return PlainTextResponse(metrics.text(desk.gauges()))

    @app.get("/v1/models")
    async def listed() -> dict[str, Any]:
        return {"object": "list", "data": [desk.described(n) for n in desk.names]}

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        return desk.described(name)

    for path, dialect in DIALECTS.items():
        _post(app, path, partial(desk.answer, dialect))
    _post(app, _COUNT, desk.count)

    @app.get("/")
    async def chat_page() -> FileResponse:
        return FileResponse(PAGES / "index.html")

    @app.get("/runs")
    async def runs_page() -> FileResponse:
        return FileResponse(PAGES / "runs.html")

    @app.get("/static/{name}")
    async def static(name: str) -> FileResponse:
        if name not in {p.name for p in PAGES.iterdir() if p.suffix in (".js", ".css")}:
            raise HTTPException(404, "no such file")
        return FileResponse(PAGES / name)

    app.include_router(browse_router(runs, home), prefix="/api")
    return Gate(app, keys, origins=origins, metrics=metrics, close=worker.close)


def _post(app: FastAPI, path: str, answer: Callable[[Request], Any]) -> None:
    @app.post(path, openapi_extra=described(path))
    async def posted(request: Request) -> Response:
        response: Response = await answer(request)
        return response


def _complaints(app: FastAPI) -> None:
    """Every error in the shape that the route's clients expect."""

    def told(request: Request, status: int, what: str, *more: str | None) -> Response:
        return complaint(request.url.path, status, what, *more)

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}: {error.detail}"
        return told(request, error.status_code, what)

    @app.exception_handler(BadRequest)
    async def bad(request: Request, error: BadRequest) -> Response:
        return told(request, error.status, str(error), error.param, error.code)

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> Response:
        return told(request, 503, str(error), None, "overloaded")

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> Response:
        return told(request, 504, str(error))

    @app.exception_handler(UserError)
    async def broken(request: Request, error: UserError) -> Response:
        return told(request, 500, str(error))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    app.add_exception_handler(Gone, gone)
    app.add_exception_handler(ClientDisconnect, gone)
