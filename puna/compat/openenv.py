"""OpenEnv servers as environments: `puna audit openenv:http://127.0.0.1:8000`.

`app("arithmetic")` is the other direction: an environment as such a server (openenv_server.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from puna.compat.openenv_wire import ActionRefused, Answer, Server, Wire
from puna.core.config import build, to_dict
from puna.core.errors import UserError
from puna.core.files import sha256_json
from puna.core.messages import Message, Text, ToolCall, ToolResult
from puna.core.outcome import Scored
from puna.core.rng import derive
from puna.engine.policy import EndpointError
from puna.gym import GYM_VERSION
from puna.gym.environment import Environment, JudgeContext, Limits, Session, Turn, Verdicts
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

if TYPE_CHECKING:
    from fastapi import FastAPI

RECORD = "openenv.json"
MAX_CALLS = 16  # of one message


@dataclass(frozen=True)
class OpenEnvConfig:
    """How to play on a server.

    `train`, `test`: how many tasks each has (where the server lists its own, those count); `turns`:
    after so many the episode is cut off and earns nothing; `steps`: after so many actions it is
    over and earns what it has (0: when the server says so); `malformed`: so many malformed actions
    in a row end it with nothing; `seconds`: how long to wait for an answer; `success`: the least
    sum of rewards that is a success; `reset`: what every reset is given besides its seed;
    `actions`: a JSON-lines file of reference solutions, {"split", "index", "actions": [...]}.
    """

    train: int = 1000
    test: int = 200
    turns: int = 64
    steps: int = 0
    malformed: int = 3
    seconds: float = 30.0
    success: float = 1.0
    reset: Mapping[str, Any] = field(default_factory=dict)
    actions: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that leave no episode."""
        for name in ("train", "test", "turns", "malformed", "seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")


@dataclass(frozen=True)
class Actions:
    """How a message becomes an action. `kind`: "text" (the message is field `name`), "json" (it is
    a JSON object of the action), "tools" (calls of the server's tools), "chat" (Puna's own)."""

    kind: str
    name: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(schema: Mapping[str, Any]) -> Actions:
        """What the JSON schema of a server's actions asks for."""
        fields = {k: v for k, v in schema.get("properties", {}).items() if k != "metadata"}
        if {"text", "tool_calls"} == set(fields):
            return Actions("chat")
        called = {"tool_name", "arguments"} <= set(fields)
        if called or schema.get("title") in ("Action", "CallToolAction", "ListToolsAction"):
            return Actions("tools")
        needed = list(fields) if len(fields) == 1 else list(schema.get("required", ()))
        if len(needed) == 1 and _is_text(fields.get(needed[0], {})):
            return Actions("text", needed[0])
        kept = {k: v for k, v in schema.items() if k != "properties"}
        return Actions("json", "", {**kept, "properties": fields})

    @property
    def rules(self) -> str:
        """What the policy is told about how to act."""
        if self.kind == "text":
            return f"Your whole message is your action: its {self.name}."
        if self.kind == "json":
            schema = json.dumps(self.schema, ensure_ascii=False)
            return f"Your message is your action: one JSON object, and nothing else, as in {schema}"
        return "Act by calling tools." if self.kind == "tools" else ""

    def read(self, message: Message) -> dict[str, Any]:
        """The action that `message` is. Raises ActionRefused where it is none."""
        text = message.text
        if self.kind == "text":
            return {self.name: _clean(text)}
        if self.kind == "json":
            return _object(text, "the message")
        calls = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in message.tool_calls]
        return {"text": text, "tool_calls": calls}


def load(rest: str, settings: Mapping[str, Any], seed: int) -> Environment:
    """The environment that the server at address `rest` plays.

    Raises UserError where none answers, or for a wrong setting.
    """
    config = build(OpenEnvConfig, settings, where=f"env openenv:{rest}")
    server = Server(rest, config.seconds)
    try:
        return OpenEnv(server, config, seed)
    except EndpointError as error:
        raise UserError(f"openenv:{rest} cannot be played: {error}") from error


def app(
    env_name: str,
    settings: Mapping[str, Any] | None = None,
    split: str = "test",
    seed: int = 0,
    **limits: Any,
) -> FastAPI:
    """Environment `env_name` as an OpenEnv server, for uvicorn; `limits`: see `openenv_server`."""
    from puna.compat.openenv_server import create

    return create(env_name, settings, split, seed, **limits)


class OpenEnv(Environment):
    """An OpenEnv server's environment: it makes the tasks and pays the rewards."""

    Config: ClassVar[type] = OpenEnvConfig

    def __init__(self, server: Server, config: OpenEnvConfig, seed: int) -> None:
        """Raises EndpointError where the server does not say what it plays."""
        super().__init__(config, seed)
        self.server, self.config = server, config
        about, schema = server.fetch("/metadata"), server.fetch("/schema")
        try:
            self.name = f"openenv:{about['name']}"  # type: ignore[misc]
            self.version = str(about.get("version") or "0.0")  # type: ignore[misc]
            self.actions = Actions.of(schema["action"])
        except (KeyError, TypeError, AttributeError) as error:
            raise EndpointError(f"{server.url} gives no metadata and schema ({error!r})") from error
        self.about = str(about.get("description") or "")
        self.limits = Limits(config.turns, 0, config.turns * config.seconds)  # type: ignore[misc]
        self.tools = self._tools() if self.actions.kind == "tools" else ()
        self.splits = _own_splits(server, str(about["name"]))
        self.reference = _read_actions(config.actions)
        self.has_oracle = bool(self.reference)
        self.content_hash = sha256_json(
            {
                "gym": GYM_VERSION,
                "server": [about, schema, self.tools],
                "config": to_dict(config),
                "reference": sorted((*where, acts) for where, acts in self.reference.items()),
            }
        )[:16]

    def _tools(self) -> tuple[Mapping[str, Any], ...]:
        with self.server.connect() as wire:
            try:
                found = wire.step({"type": "list_tools"}).observation.get("tools")
                return tuple(_tool(t) for t in found or ())
            except (ActionRefused, KeyError, TypeError, AttributeError) as error:
                raise EndpointError(f"{self.server.url} lists no tools ({error!r})") from error

    def count(self, split: str) -> int:
        """What the server says, or the settings."""
        if split in self.splits:
            return self.splits[split][1]
        return int({"train": self.config.train, "test": self.config.test}[split])

    def task(self, split: str, index: int) -> Task:
        """What reset is given: a seed of its own, and the server's split and index if it has them.

        Seeds of train are even, of test odd; that other seeds are other problems is the server's
        matter. What a problem looks like is seen when an episode begins.
        """
        self._check(split, index)
        bits = derive(self.seed, "openenv", split, index) & 0x3FFFFFFF
        reset: dict[str, Any] = {"seed": 2 * bits + (split == "test")}
        if split in self.splits:
            reset |= {"split": self.splits[split][0], "index": index}
        told = "\n\n".join(t for t in (self.about, self.actions.rules) if t)
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=(Message.system(told),) if self.actions.kind != "chat" else (),
            key=json.dumps({**self.config.reset, **reset}, sort_keys=True),
            hidden={"reset": {**self.config.reset, **reset}, "at": (split, index)},
            tools=self.tools,
        )

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """A session on the server. Raises EndpointError where it gives none."""
        wire = self.server.connect()
        try:
            return Play(wire, wire.reset(task.hidden["reset"]), task, self)
        except BaseException:
            wire.close()
            raise

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts:
        """The sum of the rewards; nothing for an episode that was cut off."""
        return [{"agent": self._outcome(e)} for e in episodes]

    def _outcome(self, episode: Episode) -> Scored:
        record = json.loads(episode.artifacts[RECORD])
        rewards, malformed = record["rewards"], record["malformed"]
        total = float(sum(rewards))
        parts = {"steps": float(record["steps"]), "malformed": float(malformed)}
        # The opening's hash makes a server that ignores its seed give different verdicts.
        seen = f"opening {record['opening'][:12]}, rewards {rewards[-8:]}"
        if episode.ended != "done":
            return Scored(0.0, False, parts, f"cut off by the limit of {episode.ended}; {seen}")
        if record["broken_off"]:
            return Scored(0.0, False, parts, f"too many malformed actions; {seen}")
        return Scored(total, total >= self.config.success, parts, seen)

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """The actions that the file of reference solutions names."""
        acts = self.reference.get(tuple(task.hidden["at"]))
        if acts is None:
            raise NotImplementedError(
                f"no reference solution of {task.id} is known: name a file by `actions`"
            )
        said = [_spoken(a, i) for i, a in enumerate(acts)]

        def script(heard: Sequence[Message]) -> Message:
            turn = sum(m.role == "assistant" for m in heard)
            return said[turn] if turn < len(said) else Message.assistant("")

        return {"agent": script}


class Play:
    """An episode on a server."""

    def __init__(self, wire: Wire, first: Answer, task: Task, env: OpenEnv) -> None:
        self.wire, self.env, self.config = wire, env, env.config
        self.messages, self.tools = task.messages, task.tools
        self.rewards: list[float] = []
        self.steps = self.malformed = self.in_a_row = 0
        shown = json.dumps(first.observation, sort_keys=True)
        self.opening = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()
        self.over = first.done
        self._show(first.observation)

    def next(self) -> Turn | None:
        """The agent's turn, until the server says that it is done."""
        return None if self.over else Turn("agent", self.messages, self.tools)

    def take(self, turn: Turn, message: Message) -> None:
        """Act. Raises EndpointError where the server fails, never for what the message is."""
        said = message if message.role == "assistant" else replace(message, role="assistant")
        self.messages = (*self.messages, said)
        if self.env.actions.kind == "tools":
            self._call(said.tool_calls)
            return
        try:
            answer = self._step(self.env.actions.read(said))
        except ActionRefused as error:
            self._refused()
            self._hear(f"error: this is no action: {error}")
            return
        self.in_a_row = 0
        if not self.over:
            self._show(answer.observation)

    def _call(self, calls: Sequence[ToolCall]) -> None:
        """Run the calls; a message without any is a last word."""
        self.over = self.over or not calls
        for position, call in enumerate(calls):
            if self.over:
                return
            try:
                if position >= MAX_CALLS:
                    raise ActionRefused(f"more than {MAX_CALLS} calls at once")
                arguments = _object(call.arguments, "the arguments")
                name = {"tool_name": _clean(call.name), "arguments": arguments}
                result = _result(call.id, self._step({"type": "call_tool", **name}).observation)
                self.in_a_row = 0
            except ActionRefused as error:
                self._refused()
                result = ToolResult(call.id, (Text(f"error: {error}"),), True)
            self.messages = (*self.messages, Message("tool", (result,)))

    def _step(self, action: Mapping[str, Any]) -> Answer:
        answer = self.wire.step(action)
        self.steps += 1
        if answer.reward is not None:
            self.rewards.append(answer.reward)
        self.over = answer.done or self.steps == self.config.steps
        return answer

    def _refused(self) -> None:
        self.malformed += 1
        self.in_a_row += 1
        self.over = self.in_a_row >= self.config.malformed

    def _hear(self, text: str) -> None:
        if not self.over:
            self.messages = (*self.messages, Message.user(text))

    def _show(self, observation: Mapping[str, Any]) -> None:
        """Observations of Puna's own servers are the whole conversation; others are told."""
        if self.env.actions.kind == "chat":
            try:
                shown = observation["messages"]
                self.messages = tuple(Message.from_openai(m) for m in shown)
                self.tools = tuple(observation.get("tools", ()))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise EndpointError(f"{self.env.server.url} shows no messages: {error}") from error
        else:
            self._hear(_told(observation))

    def artifacts(self) -> Mapping[str, bytes]:
        """The rewards, what was malformed, and the server's last state."""
        try:
            state = self.wire.state()
        except (EndpointError, ActionRefused):  # the rewards are known without it
            state = None
        record = {
            "rewards": self.rewards,
            "steps": self.steps,
            "malformed": self.malformed,
            "broken_off": self.in_a_row >= self.config.malformed,
            "opening": self.opening,
            "state": state,
        }
        return {RECORD: json.dumps(record).encode()}

    def close(self) -> None:
        """End the session on the server."""
        self.wire.close()


def _own_splits(server: Server, name: str) -> dict[str, tuple[str, int]]:
    """train and test -> the server's name of the split and its size; {} where it lists none."""
    try:
        listed = server.fetch("/list_environments")
        name = listed[0] if isinstance(listed, list) and listed else name
        by_type = {s["type"]: s["name"] for s in server.fetch(f"/{name}/splits")}
        train, test = by_type["train"], by_type.get("test") or by_type["validation"]
        sizes = {
            s: int(server.fetch(f"/{name}/num_tasks", {"split": s})["num_tasks"])
            for s in (train, test)
        }
    except (EndpointError, KeyError, TypeError, ValueError):  # tasks are optional in OpenEnv
        return {}
    return {"train": (train, sizes[train]), "test": (test, sizes[test])}


def _read_actions(path: Path | None) -> dict[tuple[str, int], list[Any]]:
    if path is None:
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return {(str(r["split"]), int(r["index"])): list(r["actions"]) for r in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = 'each line is {"split": "test", "index": 0, "actions": [...]}'
        raise UserError(f"{path} holds no reference solutions ({error!r:.80})", fix) from error


def _spoken(action: Any, position: int) -> Message:
    """An action of the file as a message: text, a JSON object, or a call of a tool."""
    if isinstance(action, Mapping) and "tool_name" in action:
        arguments = json.dumps(action.get("arguments", {}))
        call = ToolCall(f"call_{position}", str(action["tool_name"]), arguments)
        return Message("assistant", (call,))
    return Message.assistant(action if isinstance(action, str) else json.dumps(action))


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" or any(
        s.get("type") == "string" for s in schema.get("anyOf", ())
    )


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("input_schema") or tool.get("inputSchema") or {"type": "object"}
    described = {"name": tool["name"], "description": tool.get("description") or ""}
    return {"type": "function", "function": {**described, "parameters": dict(parameters)}}


def _result(call_id: str, observation: Mapping[str, Any]) -> ToolResult:
    """What a call gave, as text. Raises ActionRefused for a call that is none."""
    error = observation.get("error")
    if error:
        told = error if isinstance(error, Mapping) else {"message": error}
        if told.get("error_type") == "transport_error":
            raise EndpointError(f"a tool cannot be reached: {told.get('message')}")
        if told.get("error_type") in ("invalid_args", "tool_not_found"):
            raise ActionRefused(f"{told.get('message')}")
        return ToolResult(call_id, (Text(f"error: {told.get('message')}"),), True)
    result = observation.get("result")
    if isinstance(result, Mapping) and isinstance(result.get("content"), list):
        texts = [str(c.get("text", "")) for c in result["content"] if isinstance(c, Mapping)]
        return ToolResult(call_id, (Text("\n".join(texts)),), bool(result.get("is_error")))
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return ToolResult(call_id, (Text(text),))


def _told(observation: Mapping[str, Any]) -> str:
    """An observation as text: its only field's where that is text, else JSON."""
    shown = {k: v for k, v in observation.items() if k != "metadata"}
    shown = shown or dict(observation.get("metadata") or {})
    only = next(iter(shown.values())) if len(shown) == 1 else None
    return only if isinstance(only, str) else json.dumps(shown, ensure_ascii=False)


def _clean(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ActionRefused("it is not valid Unicode") from None
    return text


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(_clean(text))
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ActionRefused(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise ActionRefused(f"{what} is not a JSON object")
    return value
