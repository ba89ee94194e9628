"""An environment as an OpenEnv server: `uvicorn.run(create("arithmetic"))`, loopback by default.

An action is {"text": ..., "tool_calls": [{"name", "arguments"}]}, or OpenEnv's own `list_tools` and
`call_tool`; an observation is the whole conversation as chat messages. The reward comes when done.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError
from puna.core.messages import Message, Text, ToolCall, ToolResult
from puna.core.outcome import Outcome, Scored
from puna.gym.environment import Environment, Session, Turn
from puna.gym.loop import Context, refuse_less_isolation, unseen
from puna.gym.registry import load_environment
from puna.gym.task import SPLITS, Task
from puna.gym.trajectory import Episode
from puna.gym.verify import judge_group
from puna.gym.workers import DeadlineError, Workers

if TYPE_CHECKING:
    from fastapi import FastAPI

_TEXT = {"type": "string", "default": "", "description": "what the agent says"}
_CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "arguments": {"anyOf": [{"type": "string"}, {"type": "object"}]},
    },
    "required": ["name"],
}
SCHEMA: Mapping[str, Any] = {
    "action": {
        "title": "ChatAction",
        "type": "object",
        "properties": {
            "text": _TEXT,
            "tool_calls": {"type": "array", "items": _CALL, "default": []},
        },
    },
    "observation": {
        "title": "ChatObservation",
        "type": "object",
        "properties": {
            "role": {"type": "string"},
            "messages": {"type": "array", "items": {"type": "object"}},
            "tools": {"type": "array", "items": {"type": "object"}},
        },
    },
    "state": {
        "title": "State",
        "type": "object",
        "properties": {"episode_id": {"type": "string"}, "step_count": {"type": "integer"}},
    },
}


class Refused(Exception):
    """A message that cannot be followed: `code` is OpenEnv's for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def frame(self) -> dict[str, Any]:
        """The error as OpenEnv spells it."""
        return {"type": "error", "data": {"message": str(self), "code": self.code}}


class Host:
    """What all sessions of a server share: the environment, its resources, places, workers."""

    def __init__(self, env: Environment, split: str, capacity: int) -> None:
        refuse_less_isolation(env)
        if len(env.roles) != 1:
            raise UserError(f"{env.name} has roles {', '.join(env.roles)}; OpenEnv knows one")
        if split not in SPLITS:
            raise UserError(f"no split '{split}'", f"choose {' or '.join(SPLITS)}")
        self.env, self.split, self.free = env, split, capacity
        self.workers = Workers(2)
        self.resources = env.setup()
        self.turns = itertools.count()

    def close(self) -> None:
        """Let go of workers and resources."""
        self.workers.close()
        self.env.teardown(self.resources)

    def task(self, asked: Mapping[str, Any]) -> Task:
        """The task a reset asks for: by `index`, else by `seed`, else the next in order."""
        split = asked.get("split", self.split)
        if split not in SPLITS:
            raise Refused("VALIDATION_ERROR", f"no split {split!r:.40}")
        count = self.env.count(split)
        for name in ("index", "seed"):
            number = asked.get(name)
            if number is not None and type(number) is not int:
                raise Refused("VALIDATION_ERROR", f"{name} is no integer")
        index, seed = asked.get("index"), asked.get("seed")
        if index is None:
            index = (next(self.turns) if seed is None else seed) % max(1, count)
        if not 0 <= index < count:
            raise Refused("VALIDATION_ERROR", f"{split} has no task {index}")
        return self.env.task(split, index)


class Play:
    """One client's episodes, one after the other, in a thread of their own: what a session holds
    (a database) may belong to the thread that made it."""

    def __init__(self, host: Host) -> None:
        self.host, self.steps, self.name = host, 0, ""
        self.session: Session | None = None
        self.turn: Turn | None = None
        self.thread = Workers(1)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function` in the session's thread. Raises Refused where it fails or takes too long; the
        episode is then over."""
        env = self.host.env
        try:
            return await self.thread.run(
                function, *args, deadline_s=env.limits.seconds, what=env.name
            )
        except Exception as error:
            self.turn = None
            if isinstance(error, Refused):
                raise
            what = f"{env.name}: {type(error).__name__}: {error}"
            what = str(error) if isinstance(error, DeadlineError) else what
            raise Refused("EXECUTION_ERROR", f"{what:.300}") from error

    async def reset(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Begin the episode that `asked` names."""
        await self._run(self._end)
        self.task = await self._run(self.host.task, asked)
        self.name = str(asked.get("episode_id") or self.task.id)
        self.steps, self.heard = 0, list(self.task.messages)
        self.spoken: list[tuple[str, Message]] = [("env", m) for m in self.task.messages]
        await self._run(self._start)
        return await self._shown()

    def _start(self) -> None:
        self.session = self.host.env.start(self.task, self.host.resources, Context())
        self._next()

    def _next(self) -> None:
        assert self.session is not None
        self.turn = self.session.next()
        if self.turn is not None:
            new = unseen(self.turn.messages, self.heard)
            self.spoken += [("env", m) for m in new]
            self.heard += new

    async def step(self, action: Any) -> dict[str, Any]:
        """Take an action, malformed ones refused; OpenEnv's own two are known too."""
        if isinstance(action, Mapping) and action.get("type") == "list_tools":
            return _result({"tools": self._tools()})
        if self.turn is None:
            raise Refused("EXECUTION_ERROR", "no episode is in progress: reset first")
        message = read_action(action, self.steps)
        said = len(self.heard)
        await self._run(self._take, message)
        extra = _tool_result(action, self.heard[said:])
        return await self._shown(extra)

    def _take(self, message: Message) -> None:
        assert self.turn is not None
        assert self.session is not None
        self.spoken.append((self.turn.role, message))
        self.heard.append(message)
        self.steps += 1
        self.session.take(self.turn, message)
        self._next()

    async def _shown(self, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The conversation, and at its end what it earned."""
        ended = "done" if self.turn is None else ""
        if not ended and self.steps >= self.host.env.limits.turns:
            ended = "turns"
        messages = self.turn.messages if self.turn is not None else tuple(self.heard)
        observation = {
            "role": self.host.env.roles[0],
            "messages": [m.to_openai() for m in messages],
            "tools": [dict(t) for t in (self.turn.tools if self.turn else ())],
            **(extra or {}),
        }
        if not ended:
            return _result(observation)
        outcome = await self._judge(ended)
        if not isinstance(outcome, Scored):
            raise Refused("EXECUTION_ERROR", f"no score: {outcome}")
        return _result(observation, outcome)

    async def _judge(self, ended: str) -> Outcome:
        host, session = self.host, self.session
        assert session is not None
        artifacts = await self._run(lambda: dict(session.artifacts()))
        episode = Episode(self.task.id, tuple(self.spoken), artifacts, ended)
        await self._run(self._end)
        ctx = Context()
        found = await judge_group(host.env, self.task, [episode], ctx, host.workers, host.resources)
        return found[0][host.env.roles[0]]

    def _end(self) -> None:
        session, self.session, self.turn = self.session, None, None
        if session is not None:
            session.close()

    async def close(self) -> None:
        """End what is in progress and the thread."""
        try:
            await self._run(self._end)
        except Refused:
            pass  # the client has gone: nobody to tell
        self.thread.close()

    def state(self) -> dict[str, Any]:
        """Which episode, and how far it is."""
        return {"episode_id": self.name or None, "step_count": self.steps}

    def _tools(self) -> list[dict[str, Any]]:
        task = self.host.env.task(self.host.split, 0)
        described = [t["function"] for t in (self.turn.tools if self.turn else task.tools)]
        return [
            {
                "name": f["name"],
                "description": f.get("description", ""),
                "input_schema": f.get("parameters", {}),
            }
            for f in described
        ]


def read_action(action: Any, step: int) -> Message:
    """The message that an action is. Raises Refused where it is none."""
    if not isinstance(action, Mapping):
        raise Refused("VALIDATION_ERROR", "the action is not an object")
    if action.get("type") == "call_tool":
        action = {
            "tool_calls": [{"name": action.get("tool_name"), "arguments": action.get("arguments")}]
        }
    unknown = set(action) - {"text", "tool_calls", "metadata"}
    if unknown:
        raise Refused("VALIDATION_ERROR", f"an action has no {min(unknown)!r:.40}")
    text, calls = action.get("text", ""), action.get("tool_calls", [])
    if not isinstance(text, str) or not isinstance(calls, list):
        raise Refused("VALIDATION_ERROR", "text must be a string, tool_calls a list")
    parts: list[Any] = [Text(text)] if text or not calls else []
    return Message("assistant", (*parts, *(_call(c, step, i) for i, c in enumerate(calls))))


def _call(call: Any, step: int, position: int) -> ToolCall:
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise Refused("VALIDATION_ERROR", "a tool call has no name")
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments)
    return ToolCall(str(call.get("id") or f"call_{step}_{position}"), call["name"], arguments)


def _tool_result(action: Mapping[str, Any], heard: Sequence[Message]) -> dict[str, Any]:
    """What OpenEnv's clients of tools read: the result of the one call."""
    if action.get("type") != "call_tool":
        return {}
    results = [p for m in heard for p in m.parts if isinstance(p, ToolResult)]
    text = "".join(p.text for r in results[:1] for p in r.parts if isinstance(p, Text))
    failed = any(r.is_error for r in results[:1])
    content = {"content": [{"type": "text", "text": text}], "data": text, "is_error": failed}
    return {"tool_name": action.get("tool_name", ""), "result": content, "error": None}


def _result(observation: dict[str, Any], outcome: Scored | None = None) -> dict[str, Any]:
    if outcome is None:
        return {"observation": observation, "reward": None, "done": False}
    told = {"success": outcome.success, "parts": dict(outcome.parts)}
    ending = {"reward": float(outcome.value), "done": True, "metadata": told}
    return {"observation": observation, **ending}


def create(
    env_name: str,
    settings: Mapping[str, Any] | None = None,
    split: str = "test",
    seed: int = 0,
    *,
    capacity: int = 64,
    idle_s: float = 600.0,
) -> FastAPI:
    """The application: `capacity` sessions at once, each ended after `idle_s` seconds of silence.

    Raises UserError for an environment of several roles, or one that needs more isolation.
    """
    try:
        import fastapi
    except ImportError:
        raise UserError(
            "an OpenEnv server needs fastapi, which is not installed", "pip install 'puna[serve]'"
        ) from None
    host = Host(load_environment(env_name, settings, seed), split, capacity)

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        yield
        host.close()

    app = fastapi.FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)

    async def endpoint(socket: Any) -> None:
        await _serve(socket, host, idle_s)

    endpoint.__annotations__["socket"] = fastapi.WebSocket  # FastAPI reads it to tell what to give
    app.websocket("/ws")(endpoint)
    _describe(app, host)
    _stateless(app, host)
    return app


async def _serve(socket: Any, host: Host, idle_s: float) -> None:
    """One connection: a session of its own from here to its end."""
    from starlette.websockets import WebSocketDisconnect

    if "origin" in socket.headers:  # a page in somebody's browser, which may reach the loopback
        await socket.close(1008)
        return
    await socket.accept()
    if host.free < 1:
        await socket.send_text(json.dumps(Refused("CAPACITY_REACHED", "no place is free").frame()))
        await socket.close()
        return
    host.free -= 1
    play = Play(host)
    try:
        await _talk(socket, play, idle_s)
    except WebSocketDisconnect:
        pass
    finally:
        await play.close()
        host.free += 1
    try:
        await socket.close()
    except (RuntimeError, WebSocketDisconnect):  # it is closed
        pass


async def _talk(socket: Any, play: Play, idle_s: float) -> None:
    """Answer what is said, until the client says close, leaves, or is silent for too long."""
    while True:
        try:
            raw = await asyncio.wait_for(_heard(socket), idle_s)
        except TimeoutError:
            idle = Refused("SESSION_ERROR", f"nothing was said for {idle_s:g} s")
            await socket.send_text(json.dumps(idle.frame()))
            return
        reply = None if raw is None else await _reply(play, raw)
        if reply is None:
            return
        await socket.send_text(json.dumps(reply))


async def _heard(socket: Any) -> str | None:
    """The next message, "" for one of bytes, None where the client has gone."""
    event = await socket.receive()
    return None if event["type"] == "websocket.disconnect" else event.get("text") or ""


async def _reply(play: Play, raw: str) -> dict[str, Any] | None:
    """The answer to one message; None where it ends the session."""
    try:
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError):
            raise Refused("INVALID_JSON", "the message is not JSON") from None
        if not isinstance(message, dict):
            raise Refused("VALIDATION_ERROR", "the message is not an object")
        kind, data = message.get("type"), message.get("data", {})
        if kind == "close":
            return None
        if kind == "state":
            return {"type": "state", "data": play.state()}
        if kind not in ("reset", "step"):
            raise Refused("UNKNOWN_TYPE", f"no message of type {kind!r:.40}")
        if not isinstance(data, dict):
            raise Refused("VALIDATION_ERROR", "data is not an object")
        act = play.reset if kind == "reset" else play.step
        return {"type": "observation", "data": await act(data)}
    except Refused as error:
        return error.frame()


def _describe(app: Any, host: Host) -> None:
    """Routes that say what is played: health, schema, metadata, and the tasks."""
    env = host.env
    about = (type(env).__doc__ or "").strip().splitlines()[:1]

    def get(path: str, answer: Any) -> None:
        async def route() -> Any:
            return answer

        app.get(path)(route)

    get("/health", {"status": "healthy"})
    get("/schema", SCHEMA)
    get("/metadata", {"name": env.name, "description": "".join(about), "version": env.version})
    get("/state", {"episode_id": None, "step_count": 0})
    get("/list_environments", [env.name])
    get(f"/{env.name}/splits", [{"name": s, "type": s} for s in SPLITS])

    async def num_tasks(body: dict[str, Any]) -> Any:
        return _http(lambda: {"num_tasks": env.count(_known(body))})

    async def one_task(body: dict[str, Any]) -> Any:
        return _http(lambda: {"task": {"id": host.task({"index": 0, **body}).id}})

    app.post(f"/{env.name}/num_tasks")(num_tasks)
    app.post(f"/{env.name}/task")(one_task)


def _known(body: Mapping[str, Any]) -> str:
    if body.get("split") not in SPLITS:
        raise Refused("VALIDATION_ERROR", f"no split {body.get('split')!r:.40}")
    return str(body["split"])


def _http(answer: Callable[[], Any]) -> Any:
    from fastapi.responses import JSONResponse

    try:
        return JSONResponse(answer())
    except Refused as error:
        return _status(error)


def _status(error: Refused) -> Any:
    from fastapi.responses import JSONResponse

    status = 422 if error.code == "VALIDATION_ERROR" else 500
    return JSONResponse({"detail": str(error)}, status)


def _stateless(app: Any, host: Host) -> None:
    """POST /reset and /step: each an episode of its own, as OpenEnv has them."""
    from fastapi.responses import JSONResponse

    async def played(body: Mapping[str, Any] | None, action: Any = None) -> Any:
        play = Play(host)
        try:
            asked = {"index": 0} if action is not None else {}
            given = {k: v for k, v in (body or {}).items() if k in ("seed", "split", "index")}
            result = await play.reset(given or asked)
            return JSONResponse(result if action is None else await play.step(action))
        except Refused as error:
            return _status(error)
        finally:
            await play.close()

    async def reset(body: dict[str, Any] | None = None) -> Any:
        return await played(body)

    async def step(body: dict[str, Any]) -> Any:
        return await played(body, body.get("action", {}))

    app.post("/reset")(reset)
    app.post("/step")(step)
