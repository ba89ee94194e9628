"""The application of `puna serve`: an OpenAI-compatible endpoint, and pages to look at runs.

`create_app(catalogue(Path("runs/quickstart")), runs=Path("runs"))` is what uvicorn is given.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from puna.core.errors import UserError
from puna.gateway import openai
from puna.gateway.openai import BadRequest, ChatRequest, Choice
from puna.serve.answers import Asked, Speaker, ask
from puna.serve.browse import browse_router
from puna.serve.keys import Gate
from puna.serve.worker import Done, Overloaded, Worker

if TYPE_CHECKING:
    from puna.agents.model import Model

BODY_LIMIT = 8_000_000
PAGES = Path(__file__).parent / "pages"


def create_app(
    models: Mapping[str, Callable[[], Model]],
    runs: Path,
    *,
    key: str = "",
    home: Path | None = None,
) -> Gate:
    """The ASGI application: `models` by name (the first is the default), loaded when asked for.

    `runs` is the folder whose runs the pages show, `home` the run that the chat's examples are of,
    `key` what every request must carry ("": none, and only this machine is answered).
    """
    worker = Worker(dict(models))

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    names, started = list(models), int(time.time())

    def described(name: str) -> dict[str, Any]:
        if name not in models:
            what = f"no model '{name}'; there are {', '.join(names)}"
            raise BadRequest(what, "model", "model_not_found", 404)
        return {"id": name, "object": "model", "created": started, "owned_by": "puna"}

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(openai.error_body(what, "invalid_request_error"), error.status_code)

    @app.exception_handler(BadRequest)
    async def bad(request: Request, error: BadRequest) -> Response:
        return Response(json.dumps(error.body()), error.status, media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "generated_tokens": worker.generated}

    @app.get("/v1/models")
    async def listed() -> dict[str, Any]:
        return {"object": "list", "data": [described(n) for n in names]}

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        return described(name)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = openai.read_request(await _body(request))
        name = asked.model or names[0]
        described(name)
        try:
            job = await ask(await worker.model(name), name, asked)
            if asked.stream:
                return await _streamed(worker, job, asked)
            return await _whole(request, worker, job, asked)
        except Overloaded as error:
            body = openai.error_body(str(error), "server_error", None, "overloaded")
            return JSONResponse(body, 503, {"retry-after": "5"})
        except TimeoutError as error:
            return JSONResponse(openai.error_body(str(error), "server_error"), 504)
        except UserError as error:
            return JSONResponse(openai.error_body(str(error), "server_error"), 500)

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
    return Gate(app, key, worker.close)


async def _body(request: Request) -> bytes:
    """The request's body. Raises BadRequest beyond `BODY_LIMIT`, before all of it is read."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_LIMIT:
            what = f"the body is larger than {BODY_LIMIT:,} bytes"
            raise BadRequest(what, None, "request_too_large", 413)
        parts.append(part)
    return b"".join(parts)


async def _whole(request: Request, worker: Worker, job: Asked, asked: ChatRequest) -> Response:
    speakers = [Speaker(job, asked) for _ in job.ticket.requests]

    async def listen() -> None:
        async for event in worker.submit(job.ticket):
            if isinstance(event, Done):
                speakers[event.index].end(event.finish)
            elif speakers[event.index].hear(event.id, event.logprob):
                job.ticket.drop(event.index)

    listening = asyncio.ensure_future(listen())
    try:
        while not listening.done():
            await asyncio.wait([listening], timeout=0.1)
            if not listening.done() and await request.is_disconnected():
                return Response(status_code=499)
        listening.result()
    finally:
        job.ticket.cancel()
        listening.cancel()
    choices = [Choice(s.message, s.finish, tuple(s.tokens)) for s in speakers]
    name, created = _name(), int(time.time())
    body = openai.answer(name, job.model, created, choices, job.prompt, asked.logprobs)
    return Response(json.dumps(body), media_type="application/json")


async def _streamed(worker: Worker, job: Asked, asked: ChatRequest) -> Response:
    """Server-sent events; errors before the first one keep their status."""
    events = worker.submit(job.ticket)
    first = await anext(events)
    speakers = [Speaker(job, asked) for _ in job.ticket.requests]
    name, created = _name(), int(time.time())

    def line(data: Mapping[str, Any]) -> str:
        return f"data: {json.dumps(data)}\n\n"

    async def all_events() -> AsyncGenerator[Any]:
        yield first
        async for event in events:
            yield event

    async def lines() -> AsyncGenerator[str]:
        for index in range(len(speakers)):
            start = {"role": "assistant", "content": ""}
            yield line(openai.chunk(name, job.model, created, index, start))
        try:
            async for event in all_events():
                speaker = speakers[event.index]
                if isinstance(event, Done):
                    speaker.end(event.finish)
                elif speaker.hear(event.id, event.logprob):
                    job.ticket.drop(event.index)
                for delta, finish in speaker.say():
                    new = speaker.new_tokens() if asked.logprobs else None
                    yield line(
                        openai.chunk(name, job.model, created, event.index, delta, finish, new)
                    )
            if asked.include_usage:
                counts = openai.usage(job.prompt, sum(len(s.tokens) for s in speakers))
                yield line(openai.usage_chunk(name, job.model, created, counts))
            yield "data: [DONE]\n\n"
        except (TimeoutError, UserError) as error:
            yield line(openai.error_body(str(error), "server_error"))
        finally:
            job.ticket.cancel()

    return StreamingResponse(lines(), media_type="text/event-stream")


def _name() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"
