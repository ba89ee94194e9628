"""What members and soups are judged by: tasks of an environment, and the loss of right answers.

`Taste(env, tasks=200, max_tokens=32, machine=Machine(), seed=0)(Path("soup"), "soup", Progress())`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from puna.core.progress import Progress
from puna.core.stage import Machine, StageError
from puna.core.stats import Estimate, mean_interval, task_means
from puna.engine.policy import SamplingParams
from puna.evals.evaluate import EvalResult, evaluate, failures, local_policy, place_on
from puna.gym.environment import Environment
from puna.gym.loop import identity
from puna.models import hf
from puna.text.template import render
from puna.text.tokenizer import Tokenizer
from puna.train.data import demonstrations

Part = Literal["all", "dev", "test"]
DEMOS = 64  # conversations whose loss tells whether two models can be mixed


@dataclass(frozen=True)
class Tasted:
    """Task -> mean over roles, the mean over tasks and over each category's, tasks not scored."""

    values: Mapping[str, float]
    score: Estimate
    not_scored: int
    categories: Mapping[str, float]

    @property
    def average(self) -> float:
        """The mean over categories, which weigh the same however many tasks they have."""
        return sum(self.categories.values()) / len(self.categories)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary without the single tasks."""
        rest = {"not_scored": self.not_scored, "categories": dict(self.categories)}
        return {**self.score.__dict__, **rest}


@dataclass(frozen=True)
class Taste:
    """Plays the last `tasks` test tasks of `env`, greedily, or every other one of them.

    `part`: dev the first and every second one after it, test the rest, all both. See `category` for
    what `by` says.
    """

    env: Environment
    tasks: int
    max_tokens: int
    machine: Machine
    seed: int
    slots: int = 256
    by: str = ""
    part: Part = "all"

    def half(self, part: Part) -> Taste:
        """The same on a part of the tasks."""
        return replace(self, part=part)

    @property
    def identity(self) -> dict[str, str]:
        """Name, version and hash of the environment."""
        return dict(identity(self.env))

    @property
    def span(self) -> range:
        """The tasks that are played."""
        count = self.env.count("test")
        every = range(max(0, count - self.tasks), count)
        return {"all": every, "dev": every[::2], "test": every[1::2]}[self.part]

    def __call__(self, model: Path, label: str, progress: Progress) -> Tasted:
        """The score of a model's directory. Raises StageError where no task was scored."""
        loaded, _ = hf.load(model)
        tokenizer = Tokenizer.load(model).require_chat(model)
        sampler, meet = local_policy(
            place_on(loaded, self.machine), tokenizer, self.seed, self.slots
        )
        span = self.span
        found = evaluate(
            self.env,
            dict.fromkeys(self.env.roles, sampler),
            n=len(span),
            first=span.start,
            step=span.step,
            params=SamplingParams(self.max_tokens, 0.0),
            meet=meet,
            workers=self.machine.workers,
            progress=lambda done, total, mean: progress.step(label, done, total, {"score": mean}),
        )
        values = _values(found)
        if not values:
            why = "; ".join(r for o in found.outcomes.values() for r in failures(o)[:1])
            raise StageError(f"{label}: no task of {self.env.name} was scored: {why}")
        scored = mean_interval([[v] for v in values.values()])
        return Tasted(values, scored, len(span) - len(values), self._by_category(values))

    def _by_category(self, values: Mapping[str, float]) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for task in (self.env.task("test", i) for i in self.span):
            if task.id in values:
                groups.setdefault(category(task.tags, self.by), []).append(values[task.id])
        return {name: sum(found) / len(found) for name, found in sorted(groups.items())}

    @torch.inference_mode()
    def loss(self, model: Path) -> float:
        """Nats a token of the oracle's answers on the last train tasks, the policy's tokens only.

        Raises NotImplementedError where nobody knows a right answer.
        """
        loaded, _ = hf.load(model)
        decoder, tokenizer = place_on(loaded, self.machine), Tokenizer.load(model)
        total, count = 0.0, 0
        for chat in demonstrations(self.env, DEMOS):
            row = render(tokenizer, chat.messages, tools=chat.tools)
            ids_BT = torch.tensor([row.ids], device=decoder.device)
            learn_T = torch.tensor(row.mask[1:], dtype=torch.bool, device=decoder.device)
            logits_MV = decoder.logits(decoder(ids_BT[:, :-1])[0, learn_T]).float()
            targets_M = ids_BT[0, 1:][learn_T]
            total += float(F.cross_entropy(logits_MV, targets_M, reduction="sum"))
            count += len(targets_M)
        return total / max(1, count)


def category(tags: Mapping[str, str], by: str = "") -> str:
    """What a task counts for: its tag `by`, or several of them with + between ("skill+level").

    Without `by` its first tag, "all" where it has none.
    """
    if not by:
        return next(iter(tags.values()), "all")
    return " ".join(tags.get(name, "none") for name in by.split("+"))


def _values(found: EvalResult) -> dict[str, float]:
    by_role = [task_means(tasks) for tasks in found.outcomes.values()]
    common = [t for t in by_role[0] if all(t in means for means in by_role)]
    return {t: sum(means[t] for means in by_role) / len(by_role) for t in common}
