"""verifiers' tasksets (0.4 and newer) as environments: `puna audit verifiers:my-taskset`.

`export("arithmetic", Path("out"))` is the other direction: an environment of one turn as a taskset
package whose scores come from here (verifiers_export.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from puna.core.config import build, to_dict
from puna.core.errors import UserError
from puna.core.files import sha256_json
from puna.core.messages import Message, ToolResult
from puna.core.outcome import Scored
from puna.core.rng import derive
from puna.engine.policy import EndpointError
from puna.gym import GYM_VERSION
from puna.gym.environment import Environment, JudgeContext, OneTurn, Session, Verdicts, say
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

TRAIN, TEST = ("train", "training"), ("test", "validation", "valid", "val", "dev", "eval")
ELSEWHERE = "run it by vf-eval, with `puna serve` as its endpoint"


@dataclass(frozen=True)
class VerifiersConfig:
    """How a taskset is read.

    `taskset`: the taskset's own settings; `limit`: how many rows are read (of each split, where it
    has its own); `test_share`: the share of test where it has none; `success`: the least weighted
    sum of rewards that is a success; `answer`: the field of a row that holds the right answer.
    """

    taskset: Mapping[str, Any] = field(default_factory=dict)
    limit: int = 10_000
    test_share: float = 0.2
    success: float = 1.0
    answer: str = "answer"

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that leave no task."""
        if self.limit < 1:
            raise ValueError(f"limit is {self.limit}, must be at least 1")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share is {self.test_share}, must be between 0 and 1")


def load(rest: str, settings: Mapping[str, Any], seed: int) -> Environment:
    """The environment of taskset `rest` (owner/name@version, as verifiers spells it).

    Raises UserError where verifiers or the taskset is not installed, for a wrong setting, and for
    tasks that need more than one answer in text.
    """
    config = build(VerifiersConfig, settings, where=f"env verifiers:{rest}")
    return Verifiers(_library(), rest, config, seed)


def export(
    env_name: str,
    directory: Path,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write environment `env_name` as a taskset package into `directory`; the package's folder.

    Raises UserError for an environment of several turns, roles or tools.
    """
    from puna.compat.verifiers_export import write

    return write(env_name, directory, settings or {}, seed)


def _library() -> Any:
    try:
        return importlib.import_module("verifiers.v1")
    except ImportError as error:
        what = f"verifiers tasksets need verifiers 0.4 or newer, which is not here ({error})"
        raise UserError(what, "pip install 'verifiers>=0.4'") from error


class Verifiers(Environment):
    """A verifiers taskset: its rows are the tasks, its rewards judge the answer."""

    Config: ClassVar[type] = VerifiersConfig
    judge_seconds: ClassVar[float] = 60.0

    def __init__(self, library: Any, taskset: str, config: VerifiersConfig, seed: int) -> None:
        """Raises UserError where the taskset cannot be read or judged here."""
        super().__init__(config, seed)
        self.vf, self.config = library, config
        self.name = f"verifiers:{taskset}"  # type: ignore[misc]
        try:
            module = library.import_taskset(taskset)
            kind = library.taskset_config_type(taskset)
            own = kind.model_validate({**config.taskset, "id": taskset})
            self._refuse_other_players(taskset, own)
            self.rows = self._split(kind, own)
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:  # what is imported and run is the package's code
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.name} cannot be loaded: {what:.300}") from error
        first = next((t for rows in self.rows.values() for t in rows), None)
        if first is None:
            raise UserError(f"{self.name} has no rows")
        self.skipped = self._skipped(first)
        self.has_oracle = first.data.model_dump(mode="json").get(config.answer) is not None
        self.version, release = _versions(module)  # type: ignore[misc]
        self.content_hash = sha256_json(
            {
                "gym": GYM_VERSION,
                "taskset": [taskset, release, _sources(module), own.model_dump(mode="json")],
                "verifiers": importlib.metadata.version("verifiers"),
                "config": to_dict(config),
            }
        )[:16]

    def _refuse_other_players(self, taskset: str, own: Any) -> None:
        """Raises UserError where an answer in text is not all that an episode takes."""
        vf, task = self.vf, self.vf.task_type(taskset)
        why = ""
        if vf.environment_class(taskset) is not vf.SingleAgentEnv:
            why = "is played by an Env of its own"
        elif task.toolsets(own.task) or type(vf.load_taskset(own)).toolsets(own):
            why = "has tool servers"
        elif task.NEEDS_CONTAINER:
            why = "needs a container"
        if why:
            raise UserError(f"{self.name} {why}, which is not supported here", ELSEWHERE)

    def _split(self, kind: Any, own: Any) -> dict[str, list[Any]]:
        """The taskset's own splits, else its rows by the hash of what they show.

        A row of train that test has too is left out.
        """
        names = None if "split" in self.config.taskset else _split_names(kind)
        if names is not None:
            try:
                parts = [self._read(own.model_copy(update={"split": n})) for n in names]
            except Exception:  # a free text field took no such name: it has no splits we know
                names = None
        if names is None:
            rows = self._read(own)
            test = [t for t in rows if derive(0, "split", _key(t)) < self._edge]
            parts = [rows, test]
        seen = {_key(t) for t in parts[1]}
        return {"train": [t for t in parts[0] if _key(t) not in seen], "test": parts[1]}

    @property
    def _edge(self) -> float:
        return float(self.config.test_share * 2**63)

    def _read(self, own: Any) -> list[Any]:
        return list(self.vf.load_taskset(own).take(self.config.limit))

    def _skipped(self, task: Any) -> tuple[str, ...]:
        """What of the scoring needs the taskset's runtime. Raises UserError where all does."""
        rewards = [*task.hooks("reward"), *(j.score for j in task.plugged_judges())]
        skipped = [f.__name__ for f in rewards if _needs_runtime(f)]
        if len(skipped) == len(rewards):
            why = (
                f"every reward of {self.name} needs its runtime" if rewards else "it has no reward"
            )
            raise UserError(f"{self.name} cannot be judged here: {why}", ELSEWHERE)
        skipped += [f.__name__ for f in task.hooks("metric") if _needs_runtime(f)]
        stages = ("setup", "finalize")
        base = self.vf.Task
        skipped += [s for s in stages if getattr(type(task), s) is not getattr(base, s)]
        return tuple(skipped)

    def count(self, split: str) -> int:
        """How many rows fell into `split`."""
        return len(self.rows[split])

    def task(self, split: str, index: int) -> Task:
        """Row `index` of `split`. Raises UserError for a row that shows nothing."""
        self._check(split, index)
        data = self.rows[split][index].data
        shown = _shown(data)
        if not shown:
            what = f"{self.name}: row {data.idx} has no prompt: a user would open"
            raise UserError(f"{what}, which is not supported here", ELSEWHERE)
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=shown,
            key=_key(self.rows[split][index]),
            hidden={"row": data.model_dump(mode="json"), "at": (split, index)},
        )

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """One turn."""
        return OneTurn(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts:
        """The weighted sum of the taskset's rewards; what needs its runtime is left out."""
        split, index = hidden["at"]
        return [{"agent": self._score(e, self.rows[split][index])} for e in episodes]

    def _score(self, episode: Episode, task: Any) -> Scored:
        if episode.ended != "done":
            return Scored(0.0, False, evidence="the answer was cut off")
        try:
            trace = self._trace(episode, task)
        except UnicodeEncodeError:
            return Scored(0.0, False, evidence="the answer is not valid Unicode")
        try:
            asyncio.run(task.score(trace))
        except self.vf.TaskError as error:  # verifiers' name for whatever a reward raises
            raise error.__cause__ or error from None
        except self.vf.RolloutError as error:
            raise EndpointError(f"{type(error).__name__}: {error}") from error
        paid = {n: r for n, r in trace.rewards.items() if r is not None}
        found = {n: float(v) for n, v in trace.metrics.items() if v is not None}
        parts = {n: v for n, v in found.items() if math.isfinite(v)}
        told = [f"{n} {r.score:g} x {r.weight:g}" for n, r in paid.items()]
        if self.skipped:
            told.append(f"left out, because it needs a runtime: {', '.join(self.skipped)}")
        value = float(trace.reward)
        return Scored(
            value,
            value >= self.config.success,
            {**parts, **{n: float(r.score) for n, r in paid.items()}},
            "; ".join(told),
        )

    def _trace(self, episode: Episode, task: Any) -> Any:
        """The episode as verifiers records one."""
        vf, nodes, calls = self.vf, [], []
        for position, (who, message) in enumerate(episode.transcript):
            spoken = who != "env"
            parent = position - 1 if position else None
            told = _to_verifiers(vf, message)
            nodes.append(vf.MessageNode(parent=parent, message=told, sampled=spoken))
            if spoken:
                calls.append(vf.ModelCall(node=position, finish_reason="stop"))
        about = {"type": type(task).__name__, "data": task.data, "key": task.key, "hash": task.hash}
        return vf.Trace(
            task=vf.TraceTask(**about),
            state=importlib.import_module("verifiers.v1.state").state_cls(type(task))(),
            agent=vf.AgentInfo(config=vf.AgentConfig(runtime=vf.SubprocessConfig())),
            nodes=nodes,
            calls=calls,
            is_completed=True,
        )

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Says the row's answer."""
        answer = task.hidden["row"].get(self.config.answer)
        if answer is None:
            what = f"{task.id} has no field '{self.config.answer}': name the one that holds it"
            raise NotImplementedError(f"{what} by `answer`")
        return {"agent": say(str(answer))}


def _needs_runtime(function: Any) -> bool:
    """As verifiers decides it: a parameter `runtime` that has no default."""
    parameter = inspect.signature(function).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _split_names(kind: Any) -> tuple[str, str] | None:
    """The names of train and test that the field `split` of a taskset's settings takes."""
    about = kind.model_fields.get("split")
    if about is None:
        return None
    if about.annotation is str:
        return TRAIN[0], TEST[0]
    words = [w for a in (about.annotation, *typing.get_args(about.annotation))
             for w in typing.get_args(a) if isinstance(w, str)]  # fmt: skip
    train = next((n for n in TRAIN if n in words), None)
    test = next((n for n in TEST if n in words), None)
    return (train, test) if train and test else None


def _shown(data: Any) -> tuple[Message, ...]:
    """What a row shows the policy."""
    shown = [Message.system(data.system_prompt)] if data.system_prompt else []
    if isinstance(data.prompt, str):
        return (*shown, Message.user(data.prompt))
    given = [_to_puna(m) for m in data.prompt or ()]
    return (*shown, *given) if given else ()


def _key(task: Any) -> str:
    return sha256_json([m.to_json() for m in _shown(task.data)])


def _to_puna(message: Any) -> Message:
    told = message.model_dump(mode="json", exclude_none=True)
    calls = told.pop("tool_calls", None) or []
    nested = [
        {"id": c["id"], "function": {"name": c["name"], "arguments": c["arguments"]}} for c in calls
    ]
    return Message.from_openai({**told, **({"tool_calls": nested} if nested else {})})


def _to_verifiers(vf: Any, message: Message) -> Any:
    """Raises UnicodeEncodeError for text that is none."""
    told = message.to_openai()
    json.dumps(told, ensure_ascii=False).encode()
    if any(isinstance(p, ToolResult) for p in message.parts):
        return vf.ToolMessage(tool_call_id=told["tool_call_id"], content=told["content"])
    if message.role == "system":
        return vf.SystemMessage(content=told["content"])
    if message.role == "user":
        return vf.UserMessage(content=told["content"])
    reasoning = message.thought
    calls = [vf.ToolCall(id=c.id, name=c.name, arguments=c.arguments) for c in message.tool_calls]
    return vf.AssistantMessage(
        content=message.text, reasoning_content=reasoning or None, tool_calls=calls or None
    )


def _versions(module: Any) -> tuple[str, str]:
    """MAJOR.MINOR and the whole version of the package that `module` came in."""
    top = module.__name__.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(top, [])
    whole = importlib.metadata.version(names[0]) if names else "0.0"
    return ".".join(whole.split(".")[:2]), whole


def _sources(module: Any) -> str:
    """SHA-256 over the package's Python files, or over the one file."""
    file = Path(module.__file__)
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    state = hashlib.sha256()
    for path in files:
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()
