"""reasoning-gym: its datasets as environments, judged by their own `score_answer` and nothing else.

`puna audit reasoning_gym:coin_flip`; every field of the dataset's config is a setting, and
`names()` lists the datasets. Only the module of the dataset is imported: all of them take a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import typing
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from puna.compat.alone import import_alone
from puna.compat.reasoning_gym_jail import FORGERY, LIMITS, evaluates, harmless, score_in_jail
from puna.core.config import build
from puna.core.errors import UserError, nearest
from puna.core.rng import derive
from puna.gym.environment import Problem, SingleTurn, say
from puna.gym.task import Script, Task

_PACKAGE = "reasoning_gym"
_NAMED = re.compile(rb'^DATASET_NAME = "(\w+)"', re.MULTILINE)
_TRIES = 32  # draws for one task; each falls into its split with probability 1/2
_BLOCK = 8  # draws for each task from one dataset object; some make all entries beforehand
_SEEDS = 2**30  # of each split; a dataset adds the index to it, and NumPy takes 32 bits


def load(rest: str, settings: Mapping[str, Any], seed: int) -> ReasoningGym:
    """Dataset `rest` with its config's fields as settings.

    Raises UserError where reasoning-gym is missing, has no such dataset, or refuses a setting.
    """
    modules = _modules()
    if rest not in modules:
        raise UserError(f"reasoning-gym has no dataset '{rest}'", nearest(rest, modules))
    dataset, config = _registered(rest, modules[rest])
    where = f"env {_PACKAGE}:{rest}"
    if "seed" in settings:
        raise UserError(f"{where}: 'seed' comes from the seed of the run", "leave it out")
    try:
        made: Any = build(config, _enums(config, settings), where)
        getattr(made, "validate", bool)()
    except (AssertionError, ValueError, TypeError) as error:
        raise UserError(f"{where}: {error or 'the dataset refuses these settings'}") from error
    return ReasoningGym(rest, dataset, made, seed)


def names() -> list[str]:
    """Every dataset there is; nothing of reasoning-gym is imported."""
    return sorted(_modules())


class ReasoningGym(SingleTurn):
    """A dataset of reasoning-gym: its question is the prompt, its `score_answer` is the judge.

    Train and test have seeds of their own, and a question belongs to the split that its hash
    names, as everywhere: a dataset with few questions would give them in both otherwise.
    """

    test_share: ClassVar[float] = 0.5
    judge_seconds: ClassVar[float] = 2.0  # a scorer takes a millisecond, or never ends

    def __init__(self, dataset: str, cls: type, config: Any, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.name = f"{_PACKAGE}:{dataset}"  # type: ignore[misc]
        self.version = version("reasoning-gym")  # type: ignore[misc]
        self._cls = cls
        self._evaluates = evaluates(cls)
        if self._evaluates:
            self.tier = "jail"  # type: ignore[misc]
            self.judge_seconds = LIMITS.wall_s + 10  # type: ignore[misc]
        self._datasets: dict[tuple[str, int], Any] = {}

    def count(self, split: str) -> int:
        """The dataset's size, for each split."""
        return int(self.config.size)

    def task(self, split: str, index: int) -> Task:
        """The first of the entries index, index + size, ... whose question belongs to the split.

        Raises UserError where none of 32 does: the dataset has too few questions.
        """
        self._check(split, index)
        entry = self._entry(split, index)
        problem = Problem(
            entry["question"],
            "" if entry["answer"] is None else str(entry["answer"]),
            hidden={"entry": entry, "split": split},
        )
        return self._as_task(split, index, problem)

    def _entry(self, split: str, index: int) -> dict[str, Any]:
        for place in range(index, index + _TRIES * self.count(split), self.count(split)):
            block, offset = divmod(place, _BLOCK * self.count(split))
            entry: dict[str, Any] = self._dataset(split, block)[offset]
            if self.belongs(entry["question"]) == split:
                return entry
        what = f"{self.name}: {_TRIES} draws gave no problem of split {split}"
        raise UserError(what, "choose settings that give more different questions")

    def _dataset(self, split: str, block: int = 0) -> Any:
        if (split, block) not in self._datasets:
            size = _BLOCK * self.config.size
            seed = derive(self.seed, self.name, split) % _SEEDS + _SEEDS * (split == "test")
            config = replace(self.config, seed=seed + block * size, size=size)
            self._datasets[split, block] = self._cls(config=config)
        return self._datasets[split, block]

    def score(self, answer: str, problem: Problem) -> Any:
        """What the dataset says, whatever that is: a verifier's nonsense is for the audit to see.

        Where the scorer evaluates what it is given as code, that runs in the sandbox.
        """
        dataset = self._dataset(problem.hidden["split"])
        if self._evaluates and not harmless(answer):
            return score_in_jail(dataset, answer, problem.hidden["entry"])
        return dataset.score_answer(answer, problem.hidden["entry"])

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """The standard ones; for a scorer that evaluates, an answer that says its score too."""
        found = dict(super().cheats(task))
        if self._evaluates:
            found["forges the score"] = {"agent": say(FORGERY)}
        return found


@cache
def _modules() -> dict[str, str]:
    """Dataset -> the module that registers it, read from the sources."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("reasoning-gym is not installed", "pip install 'puna[gyms]'")
    root = Path(spec.origin).parent
    found = {}
    for path in root.rglob("*.py"):
        if match := _NAMED.search(path.read_bytes()):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found[match[1].decode()] = ".".join(parts)
    return found


def _registered(name: str, module: str) -> tuple[type, type]:
    """The classes of a dataset and of its config."""
    import_alone(f"{_PACKAGE}.coaching.base_curriculum")  # before the factory, which imports it
    import_alone(module)
    classes: tuple[type, type] = importlib.import_module(f"{_PACKAGE}.factory").DATASETS[name]
    return classes


def _enums(config: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what a table cannot hold: members of enumerations, plain tuples."""
    hints = typing.get_type_hints(config)
    out = dict(settings)
    for key, value in settings.items():
        hint = hints.get(key)
        if isinstance(hint, type) and issubclass(hint, Enum):
            out[key] = hint(value)
        elif hint is tuple and isinstance(value, list):
            out[key] = tuple(value)
    return out
