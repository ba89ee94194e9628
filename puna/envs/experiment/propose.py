"""Proposes research tasks: every choice of n functions that the command of a repository calls.

`load_environment("experiment", {"paper": "use", "masked": 2}).proposer().draw(0, seed=0)`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.rng import stream
from puna.envs.experiment import acting
from puna.envs.experiment.copies import elsewhere, twins
from puna.envs.experiment.lab import Lab
from puna.envs.experiment.masking import LONGEST
from puna.envs.experiment.research import Research, read_all
from puna.envs.experiment.source import Source
from puna.gym.proposer import Draft, UnfitError, Wanted
from puna.gym.task import Task
from puna.gym.trajectory import Episode

if TYPE_CHECKING:
    from puna.envs.experiment.env import Experiment

SHUFFLED = 1_000_000  # choices that are put into a random order; of more, each is drawn by itself


class MaskProposer:
    """Drafts for an environment of one source. What cannot be taken out is told by `refused`."""

    def __init__(self, env: Experiment, source: Source) -> None:
        self.env, self.source = env, source
        self.lock = threading.RLock()

    @property
    def lab(self) -> Lab:
        """Where the source's commands are run."""
        return self.env.lab(self.source)

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that may be taken out, in order. Raises UserError where there are none."""
        return self._looked_at[0]

    @property
    def refused(self) -> Mapping[str, str]:
        """Functions that the command calls and that stay, each with the reason."""
        return self._looked_at[1]

    @property
    def _looked_at(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        with self.lock:  # several threads draw, and looking takes seconds
            return self._all

    @cached_property
    def _all(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        called = self.lab.traced.called
        refused = {name: why for name in called if (why := self._unfit(name, called))}
        fit = tuple(name for name in called if name not in refused)
        copied = elsewhere(self.source, fit)
        refused |= {name: f"a copy stands in {path}" for name, path in copied.items()}
        found = tuple(name for name in fit if name not in refused)
        if not found:
            what = f"no function that `{self.source.command}` calls can be taken out"
            raise UserError(what, "; ".join(f"{k}: {v}" for k, v in [*refused.items()][:3]))
        return found, refused

    def _unfit(self, name: str, called: Sequence[str]) -> str:
        """Why a function stays; "" where nothing speaks against taking it out."""
        function = self.source.functions[name]
        if function.hollow:
            return "it has no body to speak of"
        begin, end = function.span
        if end - begin > LONGEST:
            return f"it is longer than {LONGEST:,} characters"
        running = [other for other in twins(self.source, name) if other in called]
        return f"{running[0]} is a copy of it, and runs" if running else ""

    @property
    def count(self) -> int:
        """How many choices there are."""
        return comb(len(self.functions), self.env.config.masked)

    def known(self) -> set[str]:
        """Keys of what is no new task: the environment's test tasks."""
        return {self.env.task("test", i).key for i in range(self.env.count("test"))}

    def ask(self, wanted: Wanted) -> tuple[Message, ...]:
        """Raises UserError: functions are chosen, not proposed by a policy."""
        raise UserError("experiment takes its tasks from a repository", "leave --model out")

    def draft(self, answer: str, number: int) -> Draft:
        """Raises UnfitError: see `ask`."""
        raise UnfitError("no policy proposes here")

    def draw(self, number: int, seed: int) -> Draft:
        """Choice `number`, all of them in an order that `seed` names.

        Raises UserError where the source is at fault, UnfitError where this choice is.
        """
        n = self.env.config.masked
        total = self.count
        if number >= total:
            raise UnfitError("no more choices", f"{total} ways to take {n} out")
        if total > SHUFFLED:
            rank = int(stream(seed, "mask", number).integers(total))
        else:
            rank = int(stream(seed, "masks").permutation(total)[number])
        chosen = [self.functions[i] for i in nth_choice(len(self.functions), n, rank)]
        return self.draft_of(chosen, f"experiment/proposed/{number}")

    def draft_of(self, names: Sequence[str], task: str) -> Draft:
        """The draft with these functions missing. Raises UnfitError."""
        traced, gold = self.lab.traced, self.lab.gold[0]
        return self._drafted(Research(self.source, tuple(names), gold, traced.read), task)

    def _drafted(self, research: Research, name: str) -> Draft:
        form = self.env.config.form
        try:
            task = self.env.task_of(research, name)
        except ValueError as error:
            raise UnfitError("cannot be taken out", str(error)) from None
        for each in research.masked:
            path = each.partition(":")[0]
            if research.given[path].decode(errors="replace").count(research.stub_of(each)) != 1:
                raise UnfitError("two stubs look alike", each)
        wrong = acting.all_but_one(research, form)
        return Draft(
            task,
            {"agent": acting.acted(research, form, acting.bodies_of(research))},
            {name: {"agent": script} for name, script in wrong.items()},
            {"source": research.source.repo or research.source.paper},
        )

    def solved(self, draft: Draft, episode: Episode) -> Draft:
        """The draft: its reference is known."""
        return draft

    def plausible(self, task: Task, episode: Episode) -> bool:
        """Whether files were handed in."""
        return episode.ended == "done" and bool(episode.artifacts)

    def to_json(self, draft: Draft) -> Mapping[str, Any]:
        """The research, without its files."""
        research: Research = draft.task.hidden["research"]
        return {"id": draft.task.id, **research.to_json()}

    def from_json(self, data: Mapping[str, Any]) -> Draft:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        (research,) = read_all([data], Path())
        return self._drafted(research, str(data["id"]))


def nth_choice(count: int, n: int, rank: int) -> tuple[int, ...]:
    """The `rank`-th of all choices of `n` out of `count`, in the order of `itertools`."""
    out = []
    first = 0
    for left in range(n - 1, -1, -1):
        while (ways := comb(count - first - 1, left)) <= rank:
            rank -= ways
            first += 1
        out.append(first)
        first += 1
    return tuple(out)
