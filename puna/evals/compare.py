"""`puna.compare(a, b)`, which `puna compare` calls: two results, task by task.

`print(puna.compare("runs/quickstart/sft", "runs/quickstart/rl"))`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from puna.core.errors import UserError, nearest
from puna.core.journal import read
from puna.core.outcome import Outcome, from_json
from puna.core.printable import printable
from puna.core.runs import find_model
from puna.core.stats import Difference, Score, paired_difference, summarize
from puna.evals.api import Evaluation
from puna.evals.evaluate import task_means

# Two results are of one kind where these agree. The sampling seed is none of them: it is chance.
_SETTINGS = ("env_seed", "k", "temperature", "max_tokens")
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError)


class HasDirectory(Protocol):
    """A `puna.Run`."""

    directory: Path


@dataclass(frozen=True)
class Comparison:
    """Two scores of one role over `tasks` common tasks, and `difference`, `b` minus `a`."""

    env: Mapping[str, str]
    role: str
    names: tuple[str, str]
    a: Score
    b: Score
    difference: Difference
    tasks: int

    @property
    def verdict(self) -> str:
        """What the interval of the difference says: "better", "worse", "no difference shown"."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no difference shown"

    def __str__(self) -> str:
        """Four lines: what was compared, both scores, the difference with what it shows."""
        env = f"{self.env['name']} {self.env['version']} ({self.env['hash']})"
        heads = [*self.names, "difference"]
        tails = [self.a.line(), self.b.line(), f"{self.difference}: {self.verdict}"]
        width = max(map(len, heads))
        rows = [f"  {h:<{width}}  {t}" for h, t in zip(heads, tails, strict=True)]
        first = f"{env}, {self.role}, {self.tasks:,} tasks in common"
        return "\n".join(printable(line) for line in (first, *rows))


@dataclass(frozen=True)
class _Side:
    """One result: what was played, how, and every outcome by role and task."""

    name: str
    env: Mapping[str, str]
    settings: Mapping[str, Any]
    outcomes: Mapping[str, Mapping[str, list[Outcome]]]

    def differs(self, other: _Side) -> str:
        """Why the two cannot be compared; "" where they can."""
        pairs = [(f"env {key}", self.env[key], other.env[key]) for key in self.env]
        pairs += [(key, self.settings[key], other.settings[key]) for key in _SETTINGS]
        return next((f"{what} is {a} and {b}" for what, a, b in pairs if a != b), "")


def compare(
    a: str | Path | Evaluation | HasDirectory,
    b: str | Path | Evaluation | HasDirectory,
    *,
    env: str = "",
    role: str = "",
) -> Comparison:
    """`b` minus `a`, paired over the tasks that both have played.

    Each is what `puna.eval` gave or the directory where it put it, a stage's directory in a run,
    or a run (then the last of its stages that was scored). Of a run's results those of its eval
    stages come first, then those that `puna eval` left in it. `env` names the environment (its name
    or the beginning of its hash) where there are several; `role` is the first if not given.
    Raises UserError where the environments or the settings differ.

    >>> import puna
    >>> both = puna.compare("runs/mine/sft", "runs/mine/rl")
    >>> both.tasks, both.difference.low <= both.difference.mean <= both.difference.high
    (16, True)
    """
    one, two = _choose(_sides(a), _sides(b), env)
    roles = list(one.outcomes)
    if role and role not in roles:
        raise UserError(f"{one.env['name']} has no role '{role}'", nearest(role, roles))
    role = role or roles[0]
    mine, theirs = one.outcomes[role], two.outcomes[role]
    common = [task for task in mine if task in theirs]
    if not common:
        raise UserError(f"{one.name} and {two.name} have no task in common", "evaluate both anew")
    left, right = ({t: side[t] for t in common} for side in (mine, theirs))
    means = task_means(right), task_means(left)
    if not means[0].keys() & means[1].keys():
        raise UserError("no task was scored on both sides", "mend what failed, then eval again")
    k = int(one.settings["k"])
    scores = summarize(left, k), summarize(right, k)
    found = paired_difference(*means)
    return Comparison(one.env, role, (one.name, two.name), *scores, found, len(common))


def _choose(a: Sequence[_Side], b: Sequence[_Side], env: str) -> tuple[_Side, _Side]:
    """The first pair of one kind. Raises UserError where there is none, or several environments."""
    wanted = [[s for s in x if not env or _is(s, env)] for x in (a, b)]
    for all_, kept in zip((a, b), wanted, strict=True):
        if not kept:
            known = nearest(env, {s.env["name"] for s in all_})
            raise UserError(f"{all_[0].name} was not evaluated on '{env}'", known)
    pairs = [(x, y) for x in wanted[0] for y in wanted[1] if not x.differs(y)]
    if not pairs:
        x, y = wanted[0][0], wanted[1][0]
        what = f"{x.name} and {y.name} cannot be compared: {x.differs(y)}"
        raise UserError(what, "evaluate both in the same way")
    kinds = {f"{x.env['name']} ({x.env['hash'][:8]})" for x, _ in pairs}
    if len(kinds) > 1:
        raise UserError(f"both were evaluated on {', '.join(sorted(kinds))}", "name one: --env")
    return pairs[0]


def _is(side: _Side, env: str) -> bool:
    return side.env["name"] == env or side.env["hash"].startswith(env)


def _sides(target: str | Path | Evaluation | HasDirectory) -> list[_Side]:
    """All results that `target` means, those of eval stages first."""
    path = Path(target) if isinstance(target, str | Path) else target.directory
    if not path.exists():
        raise UserError(f"no result or run at {path}", "make one: puna eval")
    try:
        sides = list(_below(path))
    except _BROKEN as error:
        raise UserError(f"{path} has a broken record: {error!r}", "evaluate it again") from error
    if isinstance(target, Evaluation):  # the journal beside it may hold more tasks than it had
        sides = [replace(s, name=target.policy, outcomes=target.result.outcomes) for s in sides]
    sides = [s for s in sides if any(s.outcomes.values())]
    if not sides:
        raise UserError(f"{path} has no evaluation", f"puna eval {path}")
    return sides


def _below(path: Path) -> Iterator[_Side]:
    if (path / "result.json").exists():
        yield _of_result(path)
        return
    place = path.resolve()
    run, stage = (path, "") if (path / "run.json").exists() else (place.parent, place.name)
    record = _load(run / "run.json") if (run / "run.json").exists() else {"stages": []}
    exams = [
        (run / s["id"], _load(run / s["id"] / "stage.json"))
        for s in record["stages"]
        if s.get("kind") == "eval" and (run / s["id"] / "stage.json").exists()
    ]
    scored = [row["stage"] for _, exam in exams for row in exam["result"]["scores"]]
    stage = stage or (scored[-1] if scored else find_model(run)[1])
    for directory, exam in exams:
        yield from _of_stage(run, stage, directory, exam, str(path))
    for place in dict.fromkeys((path, run)):
        for result in sorted((place / "evals").glob("*/result.json")):
            if place != run or _load(result)["policy"] == stage:
                yield _of_result(result.parent)


def _of_result(directory: Path) -> _Side:
    """What `puna eval` left."""
    data = _load(directory / "result.json")
    facts, env = data["facts"], data["env"]
    outcomes = _outcomes(
        directory / "episodes.jsonl", env, facts["k"], facts.get("weights", ""), data["scores"]
    )
    return _Side(str(directory), env, {key: facts[key] for key in _SETTINGS}, outcomes)


def _of_stage(
    run: Path, stage: str, directory: Path, exam: Mapping[str, Any], name: str
) -> Iterator[_Side]:
    """What an eval stage found of `stage`, a side an environment."""
    settings = {key: exam["config"].get(key) for key in _SETTINGS} | {"env_seed": exam["seed"]}
    rows = [row for row in exam["result"]["scores"] if row["stage"] == stage]
    made = run / stage / "stage.json"
    weights = _load(made).get("weights", "") if made.exists() else ""
    for digest in dict.fromkeys(row["env"]["hash"] for row in rows):
        mine = [row for row in rows if row["env"]["hash"] == digest]
        env, roles = mine[0]["env"], [row["role"] for row in mine]
        # A second environment of the same name has a journal of its own.
        plain = directory / f"episodes-{stage}-{env['name']}.jsonl"
        for journal in (plain, plain.with_name(f"{plain.stem}-{digest[:8]}.jsonl")):
            found = _outcomes(journal, env, settings["k"], weights, roles)
            if any(found.values()):
                yield _Side(name, env, settings, found)


def _outcomes(
    journal: Path, env: Mapping[str, str], k: int, weights: str, roles: Iterable[str]
) -> dict[str, dict[str, list[Outcome]]]:
    """Role -> task -> outcomes, of the test tasks these weights played; the last record counts."""
    found: dict[str, dict[str, list[Outcome]]] = {role: {} for role in roles}
    wanted = {"env": env["hash"], "k": k, "split": "test", "policy": weights}
    for record in read(journal):
        if all(record.get(key, "") == value for key, value in wanted.items()):
            for role, tasks in found.items():
                tasks[record["task"]] = [from_json(o[role]) for o in record["outcomes"]]
    return found


def _load(path: Path) -> Any:
    return json.loads(path.read_text())
