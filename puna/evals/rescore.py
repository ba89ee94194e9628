"""Stored episodes judged again, without a model: `rescore("runs/mine/evals/sft-shop", "shop")`.

What a changed verifier would have said, or whether the old verdicts can be believed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.journal import read
from puna.core.outcome import Outcome, Scored
from puna.core.printable import printable
from puna.core.stats import Score, summarize
from puna.gym.environment import Environment
from puna.gym.loop import Context, identity
from puna.gym.registry import load_environment
from puna.gym.trajectory import Trajectory
from puna.gym.verify import judge_group
from puna.gym.workers import Workers

_BROKEN = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Change:
    """One episode whose verdict is another one now."""

    task: str
    sample: int
    role: str
    before: Outcome
    after: Outcome

    def __str__(self) -> str:
        return (
            f"{self.task} #{self.sample} {self.role}: {_told(self.before)} -> {_told(self.after)}"
        )


@dataclass(frozen=True)
class Rescored:
    """What judging again gave: scores before and after by role, and every change.

    `new_tasks` are tasks whose opening is not what was shown then: they were not judged.
    """

    env: Mapping[str, str]
    stored: str
    episodes: int
    before: Mapping[str, Score]
    after: Mapping[str, Score]
    changes: tuple[Change, ...]
    new_tasks: tuple[str, ...]

    def __str__(self) -> str:
        now = f"{self.env['name']} {self.env['version']} ({self.env['hash']})"
        lines = [f"{self.episodes:,} stored episodes judged again by {now}"]
        if self.stored != self.env["hash"]:
            lines.append(f"  then the environment was {self.stored}: code or settings differ")
        for role, score in self.before.items():
            lines += [
                f"  {role} before  {score.line()}",
                f"  {role} after   {self.after[role].line()}",
            ]
        if self.new_tasks:
            lines.append(f"  not judged, the task is another one now: {len(self.new_tasks)}")
        lines.append(f"  {len(self.changes)} verdicts differ")
        return "\n".join(map(printable, lines))

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "env": dict(self.env),
            "stored": self.stored,
            "episodes": self.episodes,
            "before": {role: s.to_json() for role, s in self.before.items()},
            "after": {role: s.to_json() for role, s in self.after.items()},
            "changes": [str(c) for c in self.changes],
            "new_tasks": list(self.new_tasks),
        }


def rescore(
    where: str | Path,
    env: str,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Rescored:
    """Judge the episodes below `where` (a directory with journals, or one journal) with `env`.

    The tasks are made again with the environment's seed of then (`seed` where it is not known).
    Raises UserError where there are no episodes of this environment, or their artifacts are gone.
    """
    groups = list(_stored(Path(where)))
    if not groups:
        raise UserError(f"no stored episodes at {where}", "name what `puna eval` or a run has left")
    environment = load_environment(
        env, settings, _seed(Path(where), groups) if seed is None else seed
    )
    mine = [g for g in groups if g[0].task_id.split("/")[0] == environment.name]
    if not mine:
        other = groups[0][0].task_id.split("/")[0]
        raise UserError(f"the episodes at {where} are of '{other}'", f"give --env {other}")
    return asyncio.run(_again(environment, mine))


def _seed(where: Path, groups: Sequence[Sequence[Trajectory]]) -> int:
    """The environment's seed of then: in the episodes, or in the record beside the journal."""
    known = {t.seeds["env"] for g in groups for t in g if "env" in t.seeds}
    if len(known) > 1:
        raise UserError(f"{where} holds episodes of several seeds", "give one: --seed")
    if known:
        return known.pop()
    folder = where if where.is_dir() else where.parent
    for name, keys in (("result.json", ("facts", "env_seed")), ("stage.json", ("seed",))):
        try:
            found = json.loads((folder / name).read_text())
            for key in keys:
                found = found[key]
            return int(found)
        except (OSError, *_BROKEN):
            continue
    return 0


async def _again(env: Environment, groups: Sequence[Sequence[Trajectory]]) -> Rescored:
    workers = Workers(2)
    resources = env.setup()
    changes: list[Change] = []
    new: list[str] = []
    before: dict[str, dict[str, list[Outcome]]] = {r: {} for r in env.roles}
    after: dict[str, dict[str, list[Outcome]]] = {r: {} for r in env.roles}
    episodes = 0
    try:
        for group in groups:
            first = group[0]
            try:
                task = env.task(first.split, first.index)
            except Exception:
                new.append(first.task_id)
                continue
            shown = [m for who, m in first.episode.transcript if who == "env"]
            if shown[: len(task.messages)] != list(task.messages):
                new.append(first.task_id)
                continue
            played = [t for t in group if t.episode.ended != "failed"]
            if not played:
                continue
            verdicts = await judge_group(
                env, task, [t.episode for t in played], Context(), workers, resources
            )
            episodes += len(played)
            for trajectory, now in zip(played, verdicts, strict=True):
                for role in env.roles:
                    old = trajectory.outcomes[role]
                    before[role].setdefault(task.id, []).append(old)
                    after[role].setdefault(task.id, []).append(now[role])
                    if _kind(old) != _kind(now[role]):
                        changes.append(Change(task.id, trajectory.sample, role, old, now[role]))
    finally:
        workers.close()
        env.teardown(resources)
    if not episodes:
        raise UserError("none of the stored episodes is of a task that there still is")
    k = max(len(row) for row in before[env.roles[0]].values())
    return Rescored(
        identity(env),
        str(groups[0][0].env.get("hash", "")),
        episodes,
        {role: summarize(rows, k) for role, rows in before.items()},
        {role: summarize(rows, k) for role, rows in after.items()},
        tuple(changes),
        tuple(new),
    )


def _kind(outcome: Outcome) -> tuple[Any, ...]:
    """What must be equal: evidence is for people."""
    if isinstance(outcome, Scored):
        return "scored", outcome.value, outcome.success
    return (type(outcome).__name__,)


def _told(outcome: Outcome) -> str:
    if isinstance(outcome, Scored):
        return f"{outcome.value:g}"
    return type(outcome).__name__


def _stored(where: Path) -> Iterator[list[Trajectory]]:
    """Groups of episodes in the journals at `where`, the last record of each; artifacts read in."""
    if not where.exists():
        raise UserError(f"no stored episodes at {where}", "name what `puna eval` has left")
    journals = [where] if where.is_file() else sorted(where.glob("episodes*.jsonl"))
    for journal in journals:
        last: dict[tuple[Any, ...], list[Trajectory]] = {}
        for record in read(journal):
            try:
                group = _group(record, journal.parent / "artifacts")
            except FileNotFoundError as error:
                what = f"{journal}: the artifact {Path(error.filename).name:.12} is gone"
                raise UserError(what, "evaluate again") from error
            except _BROKEN as error:
                raise UserError(f"{journal}: a record cannot be read: {error!r:.100}") from error
            if group:
                first = group[0]
                whose = first.env.get("hash", "")
                key = (whose, record.get("step"), first.split, first.index, record.get("sample"))
                last[key] = group
        yield from last.values()


def _group(record: Mapping[str, Any], artifacts: Path) -> list[Trajectory]:
    """The episodes of one record: a group of an evaluation, or one trajectory of training."""
    if "transcript" in record:
        return [Trajectory.from_json({"branches": {}, **record}, artifacts)]
    if "transcripts" not in record:
        return []
    out = []
    for sample, transcript in enumerate(record["transcripts"]):
        one = {
            "env": {"hash": record["env"]},
            "task": record["task"],
            "split": record["split"],
            "index": record["index"],
            "sample": sample,
            "transcript": transcript,
            "artifacts": record["artifacts"][sample],
            "ended": record["ended"][sample],
            "outcomes": record["outcomes"][sample],
            "tags": record["tags"],
            "usage": record["usage"][sample],
            "branches": {},
        }
        out.append(Trajectory.from_json(one, artifacts))
    return out


def print_rescored(found: Rescored, as_json: bool = False, most: int = 20) -> None:
    """The summary and the first changes; JSON for machines."""
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    print(found)
    for change in found.changes[:most]:
        print(printable(f"    {change}"))
    if len(found.changes) > most:
        print(f"    and {len(found.changes) - most} more; --json lists all")
