"""TRL's environment classes (1.16), both ways. TRL itself is not needed for either.

Inward: `puna eval DIR --env trl:./game.py:Game --set env.rows=rows.jsonl`. The class has a
constructor without arguments, `reset(**row)` whose text is appended to the prompt, public methods
as tools, and `get_reward()` (or the setting `reward` names a TRL reward function). A row is a
`prompt` (messages or text) and whatever `reset` takes; an `oracle` column, the assistant's messages
that solve it, is for the audit and not given to `reset`. As in TRL an episode goes on while the
assistant calls tools, and a tool that raises answers with the error.

Outward: `rows, Game = as_trl("shop", "train", 64)`, then `GRPOTrainer(environment_factory=Game,
train_dataset=Dataset.from_list(rows), reward_funcs=reward)` trains on a Puna environment.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from puna.compat.stepping import Stepper, shown
from puna.core.config import build
from puna.core.errors import UserError
from puna.core.files import sha256_json
from puna.core.messages import Message, Text, ToolCall, ToolResult
from puna.core.outcome import Outcome, Scored
from puna.core.rng import derive
from puna.gym.environment import Environment, JudgeContext, Limits, OneTurn, Session, Turn
from puna.gym.registry import foreign_hash, import_object, load_environment
from puna.gym.task import SPLITS, Script, Task
from puna.gym.tools import Toolbox, ToolError
from puna.gym.trajectory import Episode

SCHEMA = 1
_RECORD = "trl.json"
_OURS = ("reset", "get_reward")  # no tools
_TEST_SHARE = 0.2
# Google's form of docstrings, as transformers' get_json_schema reads it.
_ABOUT = re.compile(r"^(.*?)\s*(?:Args:|Returns:|Raises:|\Z)", re.DOTALL)
_ARGS = re.compile(r"\n\s*Args:\n(.*?)\s*(?:\n\s*(?:Returns|Raises):|\Z)", re.DOTALL)
_ARG = re.compile(r"(\w+)[ \t]*(?:\([^()]*\))?:\s*(.*)")


@dataclass(frozen=True)
class TrlConfig:
    """What an environment class is fed.

    `rows` is a JSONL file; `reward` names a TRL reward function (`./file.py:name`) for a class
    without `get_reward`; `turns` ends an episode; `chance` is the measured value that the best
    trivial policy earns.
    """

    rows: str
    reward: str = ""
    turns: int = 16
    chance: float = 0.0


def load(rest: str, settings: Mapping[str, Any], seed: int) -> TrlEnvironment:
    """The class `./file.py:ClassName` or `package.module:ClassName` on the rows of its settings.

    Raises UserError where the class, the rows or the reward are missing or of the wrong form.
    """
    config = build(TrlConfig, settings, f"env trl:{rest}")
    cls, file = import_object(rest)
    return TrlEnvironment(cls, file, config, seed)


class TrlEnvironment(Environment):
    """An environment class of TRL: its methods are the tools, it says its own reward."""

    Config: ClassVar[type] = TrlConfig

    def __init__(self, cls: Any, file: Path, config: TrlConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.cls = cls
        self.name = f"trl:{cls.__name__}"  # type: ignore[misc]
        self.chance = config.chance  # type: ignore[misc]
        self.limits = Limits(turns=config.turns)  # type: ignore[misc]
        self.reward: Callable[..., Any] | None = None
        if config.reward:
            self.reward = import_object(config.reward)[0]
        if not callable(getattr(cls, "reset", None)):
            raise UserError(f"{self.name} has no method reset", "see docs/other-gyms.md")
        if self.reward is None and not callable(getattr(cls, "get_reward", None)):
            fix = "give --set env.reward=./file.py:reward_function"
            raise UserError(f"{self.name} has no method get_reward", fix)
        self.schemas = self.toolbox(self.new()).schemas
        rows = _read_rows(Path(config.rows))
        self.rows = {split: [r for r in rows if _split(r) == split] for split in SPLITS}
        self.has_oracle = any("oracle" in row for row in rows)
        facts = [file.read_text(), cls.__name__, config.reward, config.turns, rows]
        self.content_hash = foreign_hash(sys.modules[__name__], facts)

    def new(self) -> Any:
        """An instance. Raises UserError where the constructor wants arguments or fails."""
        try:
            return self.cls()
        except Exception as error:
            raise UserError(f"{self.name}() raised {type(error).__name__}: {error}") from error

    def toolbox(self, game: Any) -> _Methods:
        """The public methods of `game`. Raises UserError for a parameter without a type."""
        found = inspect.getmembers(type(game), predicate=inspect.isfunction)
        names = [n for n, _ in found if not n.startswith("_") and n not in _OURS]
        try:
            return _Methods(*(getattr(game, name) for name in names))
        except TypeError as error:
            raise UserError(f"{self.name}: {error}", "give it a type as TRL needs it") from error

    def count(self, split: str) -> int:
        """The rows that the hash of their content puts into `split`."""
        return len(self.rows[split])

    def task(self, split: str, index: int) -> Task:
        """Row `index` of `split`, its prompt followed by what `reset` says."""
        self._check(split, index)
        row = self.rows[split][index]
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=_opening(self.new(), row),
            key=_key(row),
            hidden={"row": row},
            tools=self.schemas,
        )

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """A game of its own."""
        return _Game(self, task.hidden["row"])

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Sequence[Mapping[str, Outcome]]:
        """The reward that the object said when its episode ended; 1 and more is success."""
        return [{"agent": _score(episode)} for episode in episodes]

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Says the messages of the row's `oracle` column, one after the other."""
        row = task.hidden["row"]
        if "oracle" not in row:
            raise NotImplementedError(f"{task.id}: the row has no column 'oracle'")
        messages = [Message.from_openai(m) for m in row["oracle"]]

        def script(seen: Sequence[Message]) -> Message:
            spoken = sum(m.role == "assistant" for m in seen)
            return messages[min(spoken, len(messages) - 1)]

        return {"agent": script}


class _Methods(Toolbox):
    """Methods as tools; what TRL's docstrings say of their arguments goes into the schemas."""

    def __init__(self, *functions: Callable[..., Any]) -> None:
        super().__init__(*functions)
        for schema in self.schemas:
            function = schema["function"]
            for name, about in _described(function["description"]).items():
                if name in function["parameters"]["properties"]:
                    function["parameters"]["properties"][name]["description"] = about
            summary = _ABOUT.match(function["description"])
            function["description"] = summary[1].strip() if summary else ""

    def run(self, call: ToolCall) -> ToolResult:
        """What the method gives, as TRL shows it; what it raises is an error result."""
        try:
            arguments = self.arguments(call.name, call.arguments)
            value = self.functions[call.name](**arguments)
            if inspect.isawaitable(value):
                value = _await(value)
        except ToolError as error:
            return ToolResult(call.id, (Text(f"error: {error}"),), True)
        except Exception as error:
            return ToolResult(call.id, (Text(str({"error": str(error)})),), True)
        return ToolResult(call.id, (Text(_plain(value)),))


def _described(docstring: str) -> dict[str, str]:
    """What the docstring's `Args:` says of each argument; a deeper line goes on with the last."""
    block = _ARGS.search("\n" + docstring)
    lines = [line for line in block[1].splitlines() if line.strip()] if block else []
    found: list[list[str]] = []
    for line in lines:
        deeper = len(line) - len(line.lstrip()) > len(lines[0]) - len(lines[0].lstrip())
        if not deeper and (match := _ARG.fullmatch(line.strip())):
            found.append([match[1], match[2]])
        elif found:
            found[-1].append(line.strip())
    return {name: " ".join(about) for name, *about in found}


def _plain(content: Any) -> str:
    """Text of a result or an observation; of content blocks the texts."""
    if not isinstance(content, list):
        return str(content)
    blocks = [b if isinstance(b, Mapping) else {"text": str(b)} for b in content]
    return "\n".join(str(b.get("text", f"[{b.get('type')}]")) for b in blocks)


def _await(value: Any) -> Any:
    """The value of an awaitable, from within a running event loop."""

    async def wait() -> Any:
        return await value

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()


def _opening(game: Any, row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The row's prompt; what `reset` says is appended to its last message, as TRL does it."""
    prompt = row.get("prompt", "")
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [Message.from_openai(m) for m in prompt]
    said = game.reset(**{k: v for k, v in row.items() if k != "oracle"})
    if said is not None:
        last = messages[-1]
        messages[-1] = replace(last, parts=(Text(last.text + _plain(said)),))
    return tuple(messages)


class _Game:
    """An episode: it goes on while the assistant calls tools."""

    def __init__(self, env: TrlEnvironment, row: Mapping[str, Any]) -> None:
        self.env, self.row, self.game = env, row, env.new()
        self.messages = self.opening = _opening(self.game, row)
        self.tools = env.toolbox(self.game)
        self.over = False

    def next(self) -> Turn | None:
        """The agent's turn, until it has said something without calling a tool."""
        return None if self.over else Turn("agent", self.messages, self.env.schemas)

    def take(self, turn: Turn, message: Message) -> None:
        """Run the calls in order."""
        results = [Message("tool", (self.tools.run(call),)) for call in message.tool_calls]
        self.messages = (*self.messages, replace(message, role="assistant"), *results)
        self.over = not results

    def artifacts(self) -> Mapping[str, bytes]:
        """The reward, or why there is none."""
        record: dict[str, Any] = {"schema": SCHEMA}
        try:
            reward = self._reward()
            record["reward"] = reward.item() if hasattr(reward, "item") else reward
            return {_RECORD: json.dumps(record).encode()}
        except Exception as error:
            error_text = f"{type(error).__name__}: {error}"
            return {_RECORD: json.dumps({"schema": SCHEMA, "error": error_text}).encode()}

    def _reward(self) -> Any:
        if self.env.reward is None:
            reward = self.game.get_reward()
            return _await(reward) if inspect.isawaitable(reward) else reward
        openai = [m.to_openai() for m in self.messages]
        start = len(self.opening)
        columns = {k: [v] for k, v in self.row.items() if k not in ("prompt", "oracle")}
        given = self.env.reward(
            prompts=[openai[:start]],
            completions=[openai[start:]],
            completion_ids=[[]],
            environments=[self.game],
            **columns,
        )
        (reward,) = _await(given) if inspect.isawaitable(given) else given
        return reward

    def close(self) -> None:
        """TRL has nothing to close."""


def _score(episode: Episode) -> Scored:
    if episode.ended != "done":
        return Scored(0.0, False, evidence=f"the episode was cut off: {episode.ended}")
    record = json.loads(episode.artifacts[_RECORD])
    if "error" in record:
        raise RuntimeError(f"the reward failed: {record['error']}")
    return Scored(record["reward"], record["reward"] >= 1)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the rows {path}: {error}", "env.rows=FILE.jsonl") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt = row.get("prompt", "")
            for message in () if isinstance(prompt, str) else [*prompt, *row.get("oracle", ())]:
                Message.from_openai(message)
            if not isinstance(prompt, str) and not prompt:
                raise ValueError("the prompt is empty")
        except (ValueError, AttributeError, TypeError) as error:
            what = f"{path}, line {number}: {error}"
            raise UserError(what, 'a row is {"prompt": messages or text, ...}') from error
        rows.append(row)
    if not rows:
        raise UserError(f"{path} has no rows", "give at least one")
    return rows


def _key(row: Mapping[str, Any]) -> str:
    return sha256_json({k: v for k, v in row.items() if k != "oracle"})


def _split(row: Mapping[str, Any]) -> str:
    return "test" if derive(0, "split", _key(row)) < _TEST_SHARE * 2**63 else "train"


def as_trl(
    env: str | Environment,
    split: str,
    n: int,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], type]:
    """Rows for `train_dataset` and a class for `environment_factory`, of the first `n` tasks.

    The class has a method for each tool of the environment. TRL's episode ends with a message that
    calls none, so where an environment answers what is said, `say` is a tool too. Score with
    `reward`. Raises UserError where several roles act or a tool cannot be a Python method.
    """
    found = load_environment(env, settings, seed) if isinstance(env, str) else env
    count = min(n, found.count(split))
    if count < 1:
        raise UserError(f"{found.name} has no {split} tasks to give", "n of 1 or more")
    tasks = [found.task(split, i) for i in range(count)]
    rows = [
        {"prompt": [m.to_openai() for m in t.messages], "split": split, "index": i}
        for i, t in enumerate(tasks)
    ]
    if any(t.tools != tasks[0].tools for t in tasks):
        raise UserError(f"{found.name} has tasks of different tools", "TRL knows one set a class")
    resources = found.setup()
    atexit.register(found.teardown, resources)
    Stepper(found, resources).close()  # refuses what cannot be played so
    schemas = [dict(t["function"]) for t in tasks[0].tools]
    if _answers(found, tasks[0], resources) and all(s["name"] != "say" for s in schemas):
        schemas.append(_SAY)
    body: dict[str, Any] = {"_env": found, "_resources": resources}
    for schema in schemas:
        tool = schema["name"]
        if not tool.isidentifier() or tool.startswith("_") or tool in _OURS:
            raise UserError(f"{found.name}: the tool '{tool}' cannot be a public method")
        body[tool] = _method(schema)
    name = re.sub(r"\W", "_", found.name)
    return rows, type(name, (_Player,), body)


def reward(environments: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
    """TRL's reward function for classes of `as_trl`; None for an episode that was not scored."""
    return [e._finish(c) for e, c in zip(environments, completions, strict=True)]


_SAY: dict[str, Any] = {
    "name": "say",
    "description": "Say a text to the user and hear the answer.",
    "parameters": {
        "properties": {"text": {"type": "string", "description": "what to say"}},
        "required": ["text"],
    },
}


def _answers(env: Environment, task: Task, resources: Any) -> bool:
    """Whether the environment may go on after a message that calls no tool."""
    session = env.start(task, resources, None)
    session.close()
    return not isinstance(session, OneTurn)


class _Player:
    """What the classes of `as_trl` share; TRL takes every public method of theirs for a tool."""

    _env: Environment
    _resources: Any

    def __init__(self) -> None:
        self._player = Stepper(self._env, self._resources)
        self._calls = 0

    def reset(self, split: str, index: int, **_: Any) -> str | None:
        """Begin a task; what its first turn shows beyond the prompt, if anything."""
        if not self._player.begin(split, index):
            return None
        prompt = len(self._env.task(split, index).messages)
        return shown(self._player.new[prompt:]) or None if self._player.new[prompt:] else None

    def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        self._calls += 1
        if name == "say" and all(t["function"]["name"] != "say" for t in self._player.tools):
            message = Message.assistant(str(arguments["text"]))
        else:
            call = ToolCall(f"call_{self._calls}", name, json.dumps(dict(arguments)))
            message = Message("assistant", (call,))
        going = self._player.say(message)
        return shown(self._player.new) if going else "The episode is over."

    def _finish(self, completion: Any) -> float | None:
        if self._player.trajectory is None:
            last = completion[-1] if completion else {}
            if last.get("role") == "assistant" and not last.get("tool_calls"):
                self._player.say(Message.assistant(str(last.get("content") or "")))
            self._player.stop()
        assert self._player.trajectory is not None
        (outcome,) = self._player.trajectory.outcomes.values()
        return float(outcome.value) if isinstance(outcome, Scored) else None


def _method(schema: Mapping[str, Any]) -> Callable[..., Any]:
    """A method whose signature and docstring give TRL the tool's schema again."""
    properties = schema["parameters"].get("properties", {})
    hints = {name: _hint(p) for name, p in properties.items()}
    required = schema["parameters"].get("required", ())
    keyword = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for name, hint in hints.items():
        default = inspect.Parameter.empty if name in required else None
        parameters.append(keyword(name, default=default, annotation=hint))

    def method(self: _Player, **arguments: Any) -> str:
        return self._call(schema["name"], arguments)

    lines = [f"    {n}: {p.get('description', n)}" for n, p in properties.items()]
    about = schema.get("description") or schema["name"]
    method.__doc__ = "\n".join([about, "", "Args:", *lines] if lines else [about])
    method.__name__ = method.__qualname__ = schema["name"]
    method.__signature__ = inspect.Signature(parameters, return_annotation=str)  # type: ignore[attr-defined]
    method.__annotations__ = {**hints, "return": str}
    return method


def _hint(schema: Mapping[str, Any]) -> Any:
    """The Python type whose JSON schema is `schema`."""
    kinds = schema.get("type", "string")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    known: dict[str, Any] = {"integer": int, "number": float, "boolean": bool, "string": str}
    kind = next((k for k in kinds if k != "null"), "string")
    if "enum" in schema:
        hint: Any = Literal[tuple(v for v in schema["enum"] if v is not None)]
    elif kind == "array":
        hint = list[_hint(schema["items"])] if "items" in schema else list  # type: ignore[misc]
    else:
        hint = known.get(kind, dict)
    return typing.Optional[hint] if "null" in kinds else hint  # noqa: UP045 - hint is a value
