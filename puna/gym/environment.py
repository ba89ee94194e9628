"""Environment: a versioned source of tasks and the rules of an episode; sessions hand out turns.

A first environment is 30 lines: subclass `SingleTurn`, write `make` and `score`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Outcome, Scored
from puna.core.rng import derive, stream
from puna.gym.task import SPLITS, Script, Task
from puna.gym.trajectory import Episode

if TYPE_CHECKING:
    from puna.gym.audit.findings import Finding
    from puna.gym.proposer import Proposer

TIERS = ("process", "worker", "jail", "container", "remote")


@dataclass(frozen=True)
class Turn:
    """`role` is to speak next; `messages` is all that role sees, `tools` what it may call.

    `unstated` are tools that it may call too, and of which a prompt says nothing: a policy knows
    them from elsewhere. What it says is over with the first of the texts `stop`, said too; behind
    an endpoint it may go on, and the environment has to read no further.
    """

    role: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    unstated: tuple[Mapping[str, Any], ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What ends an episode: turns, sampled tokens (0: no limit), seconds of environment work."""

    turns: int = 64
    tokens: int = 0
    seconds: float = 300.0


class Session(Protocol):
    """One episode in progress."""

    def next(self) -> Turn | None:
        """The next turn, or None when the episode is over."""
        ...

    def take(self, turn: Turn, message: Message) -> None:
        """Receive the message spoken in `turn`; must accept any message whatever."""
        ...

    def artifacts(self) -> Mapping[str, bytes]:
        """What the verifier needs beyond the transcript (a database, a patch)."""
        ...

    def close(self) -> None:
        """Let go of what the session holds; called exactly once."""
        ...


Verdicts = Sequence[Mapping[str, Outcome]]
"""An Outcome per role, for each episode of a group."""


class JudgeContext(Protocol):
    """What a verifier may use besides the episodes and the hidden part."""

    async def judge(self, rubric: str, parts: Sequence[str]) -> Mapping[str, Any]:
        """Ask the model that serves as judge (raises EndpointError; the outcome is then Infra)."""
        ...


@dataclass(frozen=True)
class NoConfig:
    """An environment without settings."""


class Environment:
    """Base class; see the class variables for what an environment states about itself.

    `version` is MAJOR.MINOR: MAJOR rises with any change of prompt or reward. `tier` is the least
    isolation its episodes need. `chance` is the measured value that the best trivial policy earns.
    `has_oracle` is False where nobody knows a right answer (another library's environment).
    `data_files` are what it reads outside its folder; its content hash covers them too.
    `tolerance` is how far the mean reward may rise above the mean of `shadow`, as a share of the
    reward's scale, before an alarm is raised (see `puna.gym.watch`).
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1.0"
    roles: ClassVar[tuple[str, ...]] = ("agent",)
    tier: ClassVar[str] = "process"
    limits: ClassVar[Limits] = Limits()
    judge_seconds: ClassVar[float] = 10.0
    chance: ClassVar[float] = 0.0
    has_oracle: bool = True
    data_files: Sequence[Path] = ()
    tolerance: ClassVar[float] = 0.1
    Config: ClassVar[type] = NoConfig

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        self.config = self.Config() if config is None else config
        self.seed = seed

    def count(self, split: str) -> int:
        """How many tasks `split` has."""
        raise NotImplementedError

    def task(self, split: str, index: int) -> Task:
        """Task `index` of `split`: a deterministic function of (split, index, seed)."""
        raise NotImplementedError

    def setup(self) -> Any:
        """Resources made once per worker (a database template, a browser), shared."""
        return None

    def teardown(self, resources: Any) -> None:
        """Let go of what `setup` made; called once, after the last episode."""

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """Begin an episode."""
        raise NotImplementedError

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts | Awaitable[Verdicts]:
        """An Outcome per role for each episode of one task, judged as a group.

        A plain function runs on a worker and may block. One that asks `ctx.judge` is `async def`:
        it runs on the event loop, so it must not block.
        """
        raise NotImplementedError

    def shadow(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts | Awaitable[Verdicts] | None:
        """A stricter judgement that training never sees, asked like `judge` and after it; or None.

        On the reward's scale, and equal to it where an episode deserves its reward, so that what
        the reward says above it was not earned. Where it fails, only the watch is blind.
        """
        return None

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Scripts per role that succeed."""
        raise NotImplementedError

    def demonstration(self, task: Task) -> Mapping[str, Script]:
        """Scripts per role worth imitating: the oracle's, unless an answer has a way to it."""
        return self.oracle(task)

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """Named scripts per role that must score 0."""
        return {}

    def practice(self, index: int) -> Sequence[Message]:
        """Conversation `index` that teaches what the tools do, and nothing of what is right.

        Raises NotImplementedError where there is none.
        """
        raise NotImplementedError

    def proposer(self) -> Proposer:
        """What makes new tasks (see `puna.gym.proposer`).

        Raises NotImplementedError where there is nothing that does.
        """
        raise NotImplementedError

    def examine(self, data: Path) -> Sequence[Finding]:
        """What is wrong with each task of the user's in `data`, one finding a task.

        Raises NotImplementedError where the environment reads no such files.
        """
        raise NotImplementedError

    def _check(self, split: str, index: int) -> None:
        if split not in SPLITS or not 0 <= index < self.count(split):
            raise IndexError(f"{self.name} has no task {split}/{index}")


def say(text: str) -> Script:
    """A script that always says `text`."""
    return lambda messages: Message.assistant(text)


class OneTurn:
    """A session of one question and one answer."""

    def __init__(self, task: Task, role: str = "agent", stop: tuple[str, ...] = ()) -> None:
        self.turn: Turn | None = Turn(role, task.messages, task.tools, stop=stop)

    def next(self) -> Turn | None:
        """The only turn, once."""
        return self.turn

    def take(self, turn: Turn, message: Message) -> None:
        """The answer ends the episode."""
        self.turn = None

    def artifacts(self) -> Mapping[str, bytes]:
        """None: the transcript says it all."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Problem:
    """What `SingleTurn.make` gives: the prompt, the reference answer, the slices it belongs to."""

    prompt: str
    answer: str
    tags: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, Any] = field(default_factory=dict)


_FRUITLESS = 1000  # draws without anything new after which a search gives up
_DRAWS_PER_TASK = 50


class SingleTurn(Environment):
    """One prompt, one answer. Write `make(rng)` and `score(answer, problem)`.

    Train and test are disjoint by construction: a problem belongs to the split that the hash of its
    prompt names. A train task is drawn until one falls into train, and problems may come back; test
    tasks are all different problems, so that the first and the last of them share none.
    """

    sizes: ClassVar[Mapping[str, int]] = {"train": 1_000_000, "test": 2_000}
    test_share: ClassVar[float] = 0.2
    idle_answers: ClassVar[tuple[str, ...]] = ("", "0", "yes", "I don't know.")

    def make(self, rng: np.random.Generator) -> Problem:
        """Draw one problem."""
        raise NotImplementedError

    def score(self, answer: str, problem: Problem) -> float:
        """How good `answer` is, 0 to 1; 1 is success."""
        raise NotImplementedError

    def count(self, split: str) -> int:
        """As `sizes` says, but no more test tasks than different problems were found."""
        return len(self._test) if split == "test" else self.sizes[split]

    def belongs(self, prompt: str) -> str:
        """The split a problem belongs to."""
        return "test" if derive(0, "split", prompt) < self.test_share * 2**63 else "train"

    def task(self, split: str, index: int) -> Task:
        """Problem `index` of `split`.

        Raises UserError where 1,000 draws gave none of that split (too few problems exist).
        """
        self._check(split, index)
        problem = self._test[index] if split == "test" else self._draw(index)
        return self._as_task(split, index, problem)

    def _as_task(self, split: str, index: int, problem: Problem) -> Task:
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=(Message.user(problem.prompt),),
            key=problem.prompt,
            hidden={"problem": problem},
            tags=problem.tags,
        )

    def _draw(self, index: int) -> Problem:
        """Train problem `index`, from its own random stream."""
        rng = stream(self.seed, self.name, "train", index)
        for _ in range(_FRUITLESS):
            problem = self.make(rng)
            if self.belongs(problem.prompt) == "train":
                return problem
        raise self._too_few("train")

    @cached_property
    def _test(self) -> tuple[Problem, ...]:
        """All test problems, found once; the search ends where few new ones are left."""
        rng, wanted = stream(self.seed, self.name, "test"), self.sizes["test"]
        found: dict[str, Problem] = {}
        fruitless = 0
        for _ in range(_DRAWS_PER_TASK * wanted):
            problem = self.make(rng)
            fruitless += 1
            if problem.prompt not in found and self.belongs(problem.prompt) == "test":
                found[problem.prompt], fruitless = problem, 0
            if len(found) == wanted or fruitless == _FRUITLESS:
                break
        if wanted and not found:
            raise self._too_few("test")
        # Likely problems are found first, so shuffled: any stretch of tasks is as hard as another.
        order = stream(self.seed, self.name, "test order").permutation(len(found))
        problems = list(found.values())
        return tuple(problems[i] for i in order)

    def _too_few(self, split: str) -> UserError:
        what = f"{self.name}: {_FRUITLESS:,} draws gave no problem of split {split}"
        return UserError(what, "let `make` vary more")

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """One turn."""
        return OneTurn(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts:
        """Score each answer on its own; one that was cut off earns nothing."""
        out = []
        for episode in episodes:
            if episode.ended != "done":
                out.append({"agent": Scored(0.0, False, evidence="the answer was cut off")})
                continue
            value = float(self.score(episode.said(), hidden["problem"]))
            out.append({"agent": Scored(value, value >= 1.0)})
        return out

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Says the reference answer."""
        return {"agent": say(task.hidden["problem"].answer)}

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """Standard cheats: fixed answers, the prompt echoed, many answers at once."""
        problem: Problem = task.hidden["problem"]
        many = " ".join(str(n) for n in range(-200, 1000))
        texts = {f"says {a!r}": a for a in self.idle_answers if a != problem.answer}
        texts |= {"echo": problem.prompt, "many answers": many + " " + problem.answer}
        texts |= {"over-long": "9" * 100_000, "wrong type": "[null]"}
        return {name: {"agent": say(text)} for name, text in texts.items()}
