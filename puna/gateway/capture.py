"""Episode capture: under an episode's key, the calls of any client go through the episode's seat.

`key = capture.admit(Guest(seat, loop))`; what a client with that key asks of `capture.app` is
sampled as the episode samples, and stands in `seat.branches` with its exact tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.engine.policy import Completion, EndpointError
from puna.gateway.asked import Asked, Choice, Head, Said
from puna.gateway.pictures import check_images
from puna.gateway.reading import BadRequest
from puna.gateway.speaker import Speaker, first_stop, shortened
from puna.gateway.wire import DIALECTS, Dialect, body_of, complaint
from puna.gym.seat import Answer, ContextFullError, Heard, Listen, Seat
from puna.text.images import images_of, pixels

MODEL = "policy"  # what it is called where a client must call it something
OVER = "the episode is over"
CALLS = 1_000  # of one episode: one whose agent asks for ever would not end


@dataclass(eq=False)
class Guest:
    """An episode whose client may ask: its seat, and the event loop that the seat belongs to.

    `unstated` names tools that its prompts leave out, because the environment's own do. `asked`
    counts its calls, `open` are those under way. `failed` is why the last one was not answered,
    where that is the policy's fault and not the client's; `cut` are the answers that were cut off.
    """

    seat: Seat
    loop: asyncio.AbstractEventLoop
    unstated: frozenset[str] = frozenset()
    asked: int = 0
    failed: Exception | None = None
    cut: list[Message] = field(default_factory=list)
    over: bool = False
    open: set[Future[Answer]] = field(default_factory=set)

    def ask(self, asked: Asked, listen: Listen | None) -> Future[Answer]:
        """The seat's answer, on its own loop."""
        self.asked += 1
        future = asyncio.run_coroutine_threadsafe(self._ask(asked, listen), self.loop)
        self.open.add(future)
        future.add_done_callback(self.open.discard)
        return future

    async def _ask(self, asked: Asked, listen: Listen | None) -> Answer:
        if self.over:
            raise BadRequest(OVER, status=410)
        if self.asked > CALLS:
            raise BadRequest(f"the episode has asked {CALLS:,} times, and may not again")
        tools = tuple(t for t in asked.tools if t["function"]["name"] not in self.unstated)
        try:
            answer = await self.seat.ask(
                asked.messages,
                tools if asked.choice != "none" else (),
                max_tokens=asked.max_tokens,
                listen=listen,
            )
        except ContextFullError:
            raise
        except Exception as error:
            self.failed = error
            raise
        self.failed = None
        if answer.finish == "length":
            self.cut.append(answer.message)
        return answer


class Capture:
    """The endpoint that outside agents are pointed at; `app` is its ASGI application."""

    def __init__(self) -> None:
        self.guests: dict[bytes, Guest] = {}
        routes = [Route(p, self._route(d), methods=["POST"]) for p, d in DIALECTS.items()]
        routes += [Route("/v1/models", self._models), Route("/health", _health)]
        self.app = Starlette(routes=routes, exception_handlers=_COMPLAINTS)

    def admit(self, guest: Guest) -> str:
        """The key under which the episode's client is answered, until `dismiss`."""
        key = f"sk-episode-{secrets.token_urlsafe(24)}"
        self.guests[_digest(key)] = guest
        return key

    def dismiss(self, key: str) -> None:
        """Answer nothing more under `key`; what is being asked ends."""
        guest = self.guests.pop(_digest(key))
        guest.over = True  # for what has come in and not got to the seat
        for future in tuple(guest.open):
            future.cancel()

    def _guest(self, request: Request) -> Guest:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        guest = self.guests.get(_digest(key))
        if guest is None:
            what = "no episode has this key; it is of an episode that is over, or of none"
            raise BadRequest(what, None, "invalid_api_key", 401)
        return guest

    async def _models(self, request: Request) -> Response:
        self._guest(request)
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "puna"}
        return JSONResponse({"object": "list", "data": [model]})

    def _route(self, dialect: Dialect) -> Callable[[Request], Awaitable[Response]]:
        async def posted(request: Request) -> Response:
            guest = self._guest(request)
            asked = dialect.read(await body_of(request))
            return await _answer(guest, asked, dialect, request)

        return posted


async def _answer(guest: Guest, asked: Asked, dialect: Dialect, request: Request) -> Response:
    """One call of an episode's client, whole or as a stream of few events."""
    tokenizer = getattr(getattr(guest.seat, "sampler", None), "tokenizer", None)
    _refuse(asked, tokenizer)
    speaker = None if tokenizer is None else Speaker(tokenizer, asked)
    future = guest.ask(asked, None if speaker is None else _listener(speaker))
    try:
        found = await _unless_left(request, future)
    except ContextFullError as error:
        where = "input" if "input" in asked.given else "messages"
        raise BadRequest(str(error), where, "context_length_exceeded") from None
    except asyncio.CancelledError:
        if not future.cancelled():
            raise
        raise BadRequest(OVER, status=410) from None
    if found is None:
        return Response(status_code=499)  # nobody reads it
    if speaker is None:
        choice, said = _told(found, asked.stop)
    else:
        choice, said = speaker.choice(), speaker.say() or Said()
    prompt = found.branch.ids[: found.start] if found.branch is not None else []
    stamp = f"{dialect.prefix}{secrets.token_hex(12)}"
    head = Head(
        stamp, asked.model or MODEL, int(time.time()), tokenizer, (tuple(prompt),), len(prompt)
    )
    writer = dialect.writer(asked, head)
    if not asked.stream:
        return Response(writer.whole([choice]), media_type="application/json")
    events = writer.begin() + writer.say(0, said) + writer.end([choice])
    return Response(events, media_type="text/event-stream")


def _refuse(asked: Asked, tokenizer: Any) -> None:
    """Raises BadRequest for what an episode's policy does not do: it samples as the run says."""
    what = ""
    if not asked.messages or not asked.chat:
        what = "an episode is a conversation: send messages, not a prompt"
    elif asked.n > 1:
        what = "n is more than 1, and an episode has one answer to each call"
    elif asked.schema is not None:
        what = "response_format would change what the policy says"
    elif asked.choice not in ("auto", "none"):
        what = "tool_choice 'required' or a name would change what the policy says"
    elif asked.top_logprobs:
        what = "top_logprobs are not kept"
    elif tokenizer is None and (asked.logprobs or asked.token_ids):
        what = "this policy gives no tokens"
    if what:
        raise BadRequest(f"{what} (this key is an episode's)")
    if tokenizer is not None:
        check_images(tokenizer, MODEL, asked.messages, "messages")
        for image in images_of(asked.messages):
            pixels(image)  # one that is broken is the client's fault


def _listener(speaker: Speaker) -> Listen:
    """What the client is told of the tokens is what the seat holds to have been said."""

    def heard(done: Completion) -> Heard:
        for token, logprob in zip(done.ids, done.logprobs, strict=True):
            if speaker.hear(token, logprob):
                break
        speaker.end(done.finish)
        finish = "length" if speaker.finish == "length" else "stop"
        return Heard(speaker.message, len(speaker.ids), finish)

    return heard


def _told(found: Answer, stops: Sequence[str]) -> tuple[Choice, Said]:
    """A reply without tokens, up to the first of `stops`."""
    message, finish = found.message, found.finish
    stop = None
    if cut := first_stop(message.text, stops):
        at, stop = cut
        message, finish = shortened(message, at), "stop"
    calls = message.tool_calls
    if calls and finish == "stop":
        finish = "tool_calls"
    choice = Choice(message, finish, stop, (), 0, 0)
    return choice, Said(message.text, message.thought, calls, (), finish, stop)


async def _unless_left(request: Request, future: Future[Answer]) -> Answer | None:
    """What comes of `future`; None, and it is cancelled, where the client leaves before."""

    async def left() -> None:  # at once: who asks again soon is to draw the same
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.wrap_future(future), asyncio.ensure_future(left())
    both: list[asyncio.Future[Any]] = [answer, leaving]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        return None
    finally:
        leaving.cancel()
        answer.cancel()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _complainer(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: complaint(request.url.path, status, str(error))


def _bad(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return complaint(request.url.path, error.status, str(error), error.param, error.code)


def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return complaint(request.url.path, error.status_code, what)


_COMPLAINTS: Mapping[Any, Any] = {
    BadRequest: _bad,
    HTTPException: _missing,
    UserError: _complainer(400),
    EndpointError: _complainer(502),
    TimeoutError: _complainer(504),
    ClientDisconnect: _complainer(499),
}
