"""Gymnasium, both ways: its environments as ours, and ours as a `gymnasium.Env` of texts.

`puna eval runs/quickstart --env gymnasium:FrozenLake-v1`; `as_gymnasium("arithmetic")`. How actions
are written: `gymnasium_spaces.py`. An episode ends where the game terminates or is truncated, where
`turns` messages were said (truncated too), or at the `malformed`th one that is no action: then the
score is 0; before, the game waits and the agent is told what is wrong. Otherwise the value is the
sum of the rewards; success is `info["success"]` or `info["is_success"]` of the last step, else
whether the sum reached the `reward_threshold` of the id's spec, else whether it reached 1.

A game may help: `oracle()` gives the action to take now, and `info["key"]` of `reset` says which
problem it is (without it, that is the seed).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from puna.compat.stepping import Stepper, shown
from puna.core.config import build
from puna.core.errors import UserError
from puna.core.messages import Message, ToolCall
from puna.core.outcome import Outcome, Scored, to_json
from puna.core.rng import derive
from puna.gym.environment import Environment, JudgeContext, Limits, Session, Turn, say
from puna.gym.registry import foreign_hash, import_module, load_environment
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

try:
    import gymnasium
except ImportError as error:
    raise UserError("gymnasium is not installed", "pip install 'puna[gyms]'") from error

from puna.compat.gymnasium_spaces import form, read, refuse_unsayable, write

SCHEMA = 1
_RECORD = "gymnasium.json"
_FEW = 10  # actions of which each is tried as a constant answer


@dataclass(frozen=True)
class GymnasiumConfig:
    """How a game is played.

    `kwargs` go to `gymnasium.make`; `instructions` are said before the first observation; `chance`
    is the measured value that the best trivial policy earns.
    """

    train: int = 100_000
    test: int = 1_000
    turns: int = 100
    malformed: int = 3
    instructions: str = ""
    chance: float = 0.0
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for a range without episodes."""
        for name in ("train", "test", "turns", "malformed"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")


def load(rest: str, settings: Mapping[str, Any], seed: int) -> GymnasiumEnvironment:
    """The game of id `Name-v0`, `package.module:Name-v0` or `./file.py:Name-v0`.

    Raises UserError for an unknown id, wrong settings, or a space that has no text.
    """
    config = build(GymnasiumConfig, settings, f"env gymnasium:{rest}")
    module, colon, name = rest.rpartition(":")
    if colon:
        with warnings.catch_warnings():  # a file imported again registers its ids again
            warnings.simplefilter("ignore")
            import_module(module)
    return GymnasiumEnvironment(name, config, seed)


class GymnasiumEnvironment(Environment):
    """A game of Gymnasium: an observation is a user's message, an answer is an action."""

    Config: ClassVar[type] = GymnasiumConfig

    def __init__(self, game_id: str, config: GymnasiumConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.game_id = game_id
        self.name = "gymnasium:" + game_id.replace("/", ".")  # type: ignore[misc]
        self.version = gymnasium.__version__  # type: ignore[misc]
        self.chance = config.chance  # type: ignore[misc]
        self.limits = Limits(turns=config.turns + 1)  # type: ignore[misc]
        self._first = self.make()
        refuse_unsayable(self._first.observation_space, f"{self.name}: the observation space")
        refuse_unsayable(self._first.action_space, f"{self.name}: the action space")
        self.has_oracle = callable(getattr(self._first.unwrapped, "oracle", None))
        self._lock = threading.Lock()
        game_file = inspect.getsourcefile(type(self._first.unwrapped))
        source = Path(game_file).read_bytes() if game_file else b""
        facts = [game_id, self.version, repr(config), hashlib.sha256(source).hexdigest()]
        self.content_hash = foreign_hash(sys.modules[__name__], facts)

    def make(self) -> Any:
        """A new game. Raises UserError where Gymnasium cannot make it."""
        try:
            return gymnasium.make(self.game_id, disable_env_checker=True, **self.config.kwargs)
        except Exception as error:
            what = f"{self.name} cannot be made: {type(error).__name__}: {error}"
            raise UserError(what, "check the id, and that what it needs is installed") from error

    def count(self, split: str) -> int:
        """As the settings say: a task is a seed."""
        return int(self.config.test if split == "test" else self.config.train)

    def task(self, split: str, index: int) -> Task:
        """The game reset with the seed of (split, index): even for train, odd for test."""
        self._check(split, index)
        seed = 2 * (derive(self.seed, self.game_id, split, index) % 2**30) + (split == "test")
        with self._lock:
            observation, info = self._first.reset(seed=seed)
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=self.opening(observation),
            key=str(info.get("key", seed)),
            hidden={"seed": seed},
        )

    def opening(self, observation: Any) -> tuple[Message, ...]:
        """The instructions with the form of an action, and the first observation."""
        space = self._first.action_space
        rule = "" if isinstance(space, gymnasium.spaces.Text) else f"Answer with {form(space)}."
        told = "\n".join(filter(None, (self.config.instructions, rule)))
        first = Message.user(write(self._first.observation_space, observation))
        return (Message.system(told), first) if told else (first,)

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """A game of its own."""
        return _Game(self, task.hidden["seed"])

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Sequence[Mapping[str, Outcome]]:
        """The sum of the rewards that the game gave, from the episode's record."""
        return [{"agent": self._score(episode)} for episode in episodes]

    def _score(self, episode: Episode) -> Scored:
        if episode.ended != "done":
            return Scored(0.0, False, evidence=f"the game was cut off: {episode.ended}")
        record = json.loads(episode.artifacts[_RECORD])
        if record["malformed"] >= self.config.malformed:
            return Scored(0.0, False, evidence=f"{record['malformed']} answers were no actions")
        total = math.fsum(record["rewards"])
        success = record["success"]
        if success is None:
            threshold = self._first.spec.reward_threshold
            success = total >= (1.0 if threshold is None else threshold)
        parts = {"steps": len(record["rewards"]), "malformed": record["malformed"]}
        cut = record["truncated"] and not record["terminated"]
        return Scored(total, success, parts, "truncated" if cut else "")

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Plays a second game beside the first by the game's own `oracle()`."""
        game = self.make()
        if not callable(getattr(game.unwrapped, "oracle", None)):
            raise NotImplementedError(f"{self.name} has no oracle() that gives the next action")
        game.reset(seed=task.hidden["seed"])

        def script(messages: Sequence[Message]) -> Message:
            action = game.unwrapped.oracle()
            game.step(action)
            return Message.assistant(write(game.action_space, action))

        return {"agent": script}

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """Always the same action, unless the oracle begins with it."""
        space = self._first.action_space
        if not isinstance(space, gymnasium.spaces.Discrete) or space.n > _FEW:
            return {}
        right = self.oracle(task)["agent"](task.messages).text if self.has_oracle else ""
        actions = [str(space.start + i) for i in range(int(space.n))]
        return {f"always {a}": {"agent": say(a)} for a in actions if a != right}


class _Game:
    """An episode: actions go to the game, what is none is answered with the rule."""

    def __init__(self, env: GymnasiumEnvironment, seed: int) -> None:
        self.env, self.game = env, env.make()
        self.messages = env.opening(self.game.reset(seed=seed)[0])
        self.rewards: list[float] = []
        self.malformed = self.turns = 0
        self.terminated = self.truncated = False
        self.success: bool | None = None

    def next(self) -> Turn | None:
        """The agent's turn, until the game has ended."""
        config = self.env.config
        over = self.terminated or self.truncated or self.malformed >= config.malformed
        return None if over else Turn("agent", self.messages)

    def take(self, turn: Turn, message: Message) -> None:
        """One step, where the text is an action."""
        self.messages = (*self.messages, replace(message, role="assistant"))
        self.turns += 1
        try:
            action = read(self.game.action_space, message.text)
        except ValueError as error:
            self.malformed += 1
            rule = form(self.game.action_space)
            answer = f"That is no action: {error}. Answer with {rule} and nothing else."
        else:
            answer = self._step(action)
        self.messages = (*self.messages, Message.user(answer))
        self.truncated |= not self.terminated and self.turns >= self.env.config.turns

    def _step(self, action: Any) -> str:
        observation, reward, terminated, truncated, info = self.game.step(action)
        self.rewards.append(float(reward))
        self.terminated, self.truncated = bool(terminated), bool(truncated)
        success = info.get("success", info.get("is_success"))
        self.success = None if success is None else bool(success)
        return write(self.game.observation_space, observation)

    def artifacts(self) -> Mapping[str, bytes]:
        """All that the score depends on."""
        record = {
            "schema": SCHEMA,
            "rewards": self.rewards,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "malformed": self.malformed,
            "success": self.success,
        }
        return {_RECORD: json.dumps(record).encode()}

    def close(self) -> None:
        """Close the game."""
        self.game.close()


def as_gymnasium(
    env: str | Environment,
    split: str = "train",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> gymnasium.Env[str, str]:
    """An environment of one role (or its name) as a Gymnasium environment of texts.

    `reset(seed=s, options={"index": i})` begins task i, or one drawn by the seed. An observation is
    what the agent is shown anew; `info` has the messages and tools in OpenAI's form, and at the end
    the outcome. An action is what the agent says; a JSON object of `"name"` and `"arguments"` alone
    calls a tool where there are tools. The reward is 0 until the end, then the outcome's value. An
    episode cut off by a limit is truncated, and so is one that could not be scored.
    Raises UserError where several roles act.
    """
    found = load_environment(env, settings, seed) if isinstance(env, str) else env
    return _View(found, split)


class _AnyText(gymnasium.spaces.Text):
    """Any text at all; samples are printable ASCII."""

    def __init__(self) -> None:
        super().__init__(max_length=64, min_length=0)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


class _View(gymnasium.Env[str, str]):
    def __init__(self, env: Environment, split: str) -> None:
        self.env, self.split = env, split
        self.observation_space, self.action_space = _AnyText(), _AnyText()
        self.player = Stepper(env)
        self.calls = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        count = self.env.count(self.split)
        index = int((options or {}).get("index", self.np_random.integers(count)))
        self.calls = 0
        if not self.player.begin(self.split, index):
            assert self.player.trajectory is not None
            raise RuntimeError(f"task {index} cannot be played: {self.player.trajectory.outcomes}")
        return shown(self.player.new), {"index": index, **self._info()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.player.say(self._message(action)):
            return shown(self.player.new), 0.0, False, False, self._info()
        done = self.player.trajectory
        assert done is not None
        (outcome,) = done.outcomes.values()
        info = {"outcome": to_json(outcome), "task": done.task_id, "ended": done.episode.ended}
        if not isinstance(outcome, Scored):
            return "", 0.0, False, True, info
        whole = done.episode.ended in ("done", "failed")
        return "", float(outcome.value), whole, not whole, {**info, "success": outcome.success}

    def close(self) -> None:
        self.player.close()

    def _info(self) -> dict[str, Any]:
        messages = [m.to_openai() for m in self.player.new]
        return {"messages": messages, "tools": [dict(t) for t in self.player.tools]}

    def _message(self, action: str) -> Message:
        try:
            call = json.loads(action) if self.player.tools else None
        except (ValueError, RecursionError):
            call = None
        if isinstance(call, dict) and set(call) == {"name", "arguments"}:
            name, arguments = call["name"], call["arguments"]
            if isinstance(name, str) and isinstance(arguments, dict):
                self.calls += 1
                given = ToolCall(f"call_{self.calls}", name, json.dumps(arguments))
                return Message("assistant", (given,))
        return Message.assistant(action)
