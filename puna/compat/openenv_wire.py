"""OpenEnv's wire format, the client's side: HTTP for what a server says of itself, sessions by
WebSocket. `with Server("http://127.0.0.1:8000", 30).connect() as wire: wire.reset({"seed": 1})`.
"""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

from puna.core.errors import UserError
from puna.engine.policy import EndpointError

MAX_BYTES = 64_000_000  # of one message or body
CLOSING_S = 5.0  # to let a server end a session
REFUSALS = ("VALIDATION_ERROR", "INVALID_JSON")  # the action's fault, and so the agent's


class ActionRefused(Exception):
    """The server takes no such action; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What a server gives to `reset` and `step`; no `reward` is None."""

    observation: Mapping[str, Any]
    reward: float | None
    done: bool


@dataclass(frozen=True)
class Server:
    """An OpenEnv server at `url` (http or https); every wait ends after `seconds`."""

    url: str
    seconds: float

    def __post_init__(self) -> None:
        """Raises UserError for an address that is not http."""
        if not self.url.startswith(("http://", "https://")):
            raise UserError(
                f"'{self.url}' is no address of a server", "e.g. openenv:http://127.0.0.1:8000"
            )

    def fetch(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that GET `path` gives, or POST where there is a `body`.

        Raises EndpointError, also for a status that is no success, and for what is not JSON.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data)
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as response:
                return json.loads(response.read(MAX_BYTES))
        except urllib.error.HTTPError as error:
            raise EndpointError(f"{self.url}{path} answers {error.code}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise EndpointError(f"{self.url}{path}: {error or type(error).__name__}") from error

    def connect(self) -> Wire:
        """A session of its own. Raises EndpointError where none is given, UserError without the
        library."""
        try:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect
        except ImportError:
            raise UserError(
                "openenv needs websockets, which is not installed", "pip install 'puna[openenv]'"
            ) from None
        address = "ws" + self.url.rstrip("/").removeprefix("http") + "/ws"
        waits: dict[str, Any] = {"open_timeout": self.seconds, "close_timeout": CLOSING_S}
        held = ExitStack()  # newer releases connect on entering only, older ones before
        try:
            socket = held.enter_context(connect(address, max_size=MAX_BYTES, **waits))
        except (WebSocketException, OSError) as error:
            raise EndpointError(f"{address}: {error or type(error).__name__}") from error
        return Wire(socket, held, self)


class Wire:
    """One session: `reset`, `step`, `state`, `close`; each raises EndpointError where it fails."""

    def __init__(self, socket: Any, held: ExitStack, server: Server) -> None:
        self.socket, self.held, self.server = socket, held, server

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self, data: Mapping[str, Any]) -> Answer:
        """Begin an episode; `data` is what the environment's reset takes (seed and others)."""
        try:
            return _answer(self._ask("reset", data), self.server.url)
        except ActionRefused as error:
            raise EndpointError(f"{self.server.url} refuses reset({dict(data)}): {error}") from None

    def step(self, action: Mapping[str, Any]) -> Answer:
        """Take an action. Raises ActionRefused where the server finds it malformed."""
        return _answer(self._ask("step", action), self.server.url)

    def state(self) -> Any:
        """The environment's state."""
        return self._ask("state", None)

    def close(self) -> None:
        """End the session, and let the server free its place; a broken connection is no matter."""
        until = time.monotonic() + CLOSING_S
        try:
            self.socket.send('{"type": "close"}')
            while (left := until - time.monotonic()) > 0:
                self.socket.recv(timeout=left)
        except Exception:  # it hung up, as it should, or is beyond help
            pass
        try:
            self.held.close()
        except Exception:
            pass

    def _ask(self, kind: str, data: Mapping[str, Any] | None) -> Any:
        from websockets.exceptions import ConnectionClosed

        message = {"type": kind} if data is None else {"type": kind, "data": dict(data)}
        text, where = json.dumps(message), f"{kind} at {self.server.url}"
        try:
            try:
                self.socket.send(text)
            except ConnectionClosed:
                pass  # a full server says so and hangs up at once: what it said can still be read
            raw = self.socket.recv(timeout=self.server.seconds)
        except TimeoutError:
            raise EndpointError(f"{where}: no answer in {self.server.seconds:g} s") from None
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == 1009:  # it is too long
                raise ActionRefused("the action is too long") from None
            raise EndpointError(f"{where}: the server hung up ({error})") from error
        try:
            reply = json.loads(raw)
            found, inner = reply["type"], reply["data"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise EndpointError(f"{where}: no OpenEnv message: {raw!r:.80}") from error
        if found == "error":
            _fail(where, inner)
        return inner


def _fail(where: str, data: Any) -> NoReturn:
    """Raises what an error message means: whose fault it is, and what helps."""
    code, said = "", repr(data)
    if isinstance(data, Mapping):
        code, said = str(data.get("code", "")), str(data.get("message", ""))
    if code in REFUSALS:
        errors = data.get("errors")
        if isinstance(errors, list):
            said = "; ".join(_one(e) for e in errors[:5] if isinstance(e, Mapping)) or said
        raise ActionRefused(f"{said:.500}")
    hint = "; start it with more max_concurrent_envs, or play with --concurrency 1"
    raise EndpointError(f"{where}: {code} {said:.300}{hint if code == 'CAPACITY_REACHED' else ''}")


def _one(error: Mapping[str, Any]) -> str:
    """An error of pydantic's in one line."""
    place = error.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    return f"{where}: {error.get('msg', '')}" if where else str(error.get("msg", ""))


def _answer(data: Any, where: str) -> Answer:
    try:
        observation, reward, done = data["observation"], data.get("reward"), data.get("done")
        number = None if reward is None else float(reward)
        if not isinstance(observation, Mapping) or not math.isfinite(number or 0.0):
            raise TypeError("no observation, or a reward that is not finite")
        return Answer(observation, number, bool(done))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EndpointError(f"{where} gives no result of a step: {data!r:.80} ({error})") from error
