"""The basic audit: a reward is trusted only after it paid the oracle, and nobody else.

`audit("arithmetic", n=50).passed`; `puna audit ./mine.py` prints the table.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from puna.core.errors import UserError
from puna.core.files import sha256_json
from puna.core.outcome import Infra, Invalid, Outcome, Scored, to_json
from puna.gym.environment import Environment, say
from puna.gym.loop import Context, play_scripts, refuse_less_isolation
from puna.gym.registry import load_environment
from puna.gym.task import SPLITS, Script, Task
from puna.gym.verify import judge_group
from puna.gym.workers import Workers

SCHEMA = 1


@dataclass(frozen=True)
class Finding:
    """One probe: what it asked, why it matters, whether it held, and what was seen."""

    probe: str
    reason: str
    passed: bool
    seen: str


@dataclass(frozen=True)
class Audit:
    """All findings of one environment; `id` is a hash that results can carry."""

    env: Mapping[str, str]
    n: int
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every probe held."""
        return all(f.passed for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """A record with its own hash."""
        body = {
            "schema": SCHEMA,
            "env": dict(self.env),
            "n": self.n,
            "passed": self.passed,
            "findings": [asdict(f) for f in self.findings],
        }
        return {**body, "id": sha256_json(body)[:16]}


def audit(
    name: str, *, n: int = 50, seed: int = 0, settings: Mapping[str, Any] | None = None
) -> Audit:
    """Probe environment `name` on `n` tasks of each split.

    Raises UserError where it cannot be loaded or gives no task.
    """
    if n < 1:
        raise UserError(f"n is {n}", "probe at least one task")
    env = load_environment(name, settings, seed)
    refuse_less_isolation(env)
    findings = asyncio.run(_Auditor(env, _tasks(env, n)).probe_all())
    findings += [_determinism(env, name, n, settings or {}), _overlap(env)]
    identity = {"name": env.name, "version": env.version, "hash": _hash(env)}
    return Audit(identity, n, tuple(findings))


def _tasks(env: Environment, n: int) -> list[Task]:
    tasks = []
    for split in SPLITS:
        for i in range(min(n, env.count(split))):
            try:
                tasks.append(env.task(split, i))
            except UserError:
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise UserError(f"{env.name} cannot make task {split}/{i}: {what}") from error
    if not tasks:
        raise UserError(f"{env.name} has no tasks", "let count(split) return more than 0")
    return tasks


def _hash(env: Environment) -> str:
    return str(getattr(env, "content_hash", ""))


class _Auditor:
    """Plays scripts on the tasks and judges what they did, through the public interface only."""

    def __init__(self, env: Environment, tasks: list[Task]) -> None:
        self.env, self.tasks = env, tasks
        self.workers = Workers(2)
        self.resources = env.setup()
        self.sound: set[tuple[str, str]] = set()  # (task, role) whose reference was Scored

    async def probe_all(self) -> list[Finding]:
        """Oracle, idle agents, the environment's own cheats, and a verdict asked for twice."""
        try:
            return [
                await self.oracle(),
                await self.idle(),
                await self.cheats(),
                await self.repeats(),
                await self.hostile(),
            ]
        finally:
            self.workers.close()
            self.env.teardown(self.resources)

    async def play(self, task: Task, scripts: Mapping[str, Script]) -> Mapping[str, Outcome]:
        """Outcomes of an episode by these scripts; roles they leave out play the oracle's part.

        An environment that breaks gives Infra, which no probe accepts.
        """
        try:
            full = dict(scripts)
            if set(full) != set(self.env.roles):
                full = {**self.env.oracle(task), **full}
            episode = await play_scripts(self.env, task, full, Context(), self.resources)
        except UserError:
            raise
        except Exception as error:
            broken = Infra(f"the episode broke: {type(error).__name__}: {error}")
            return dict.fromkeys(self.env.roles, broken)
        verdicts = await judge_group(
            self.env, task, [episode], Context(), self.workers, self.resources
        )
        return verdicts[0]

    async def oracle(self) -> Finding:
        """The reference solution must succeed with the full score on every task."""
        bad = []
        for task in self.tasks:
            for role, outcome in (await self.play(task, {})).items():
                if isinstance(outcome, Scored):
                    self.sound.add((task.id, role))
                if not isinstance(outcome, Scored) or not outcome.success:
                    bad.append(f"{task.id} {role}: {outcome}")
        return _finding("oracle", "the reference answer must score 1", bad, len(self.tasks))

    async def idle(self) -> Finding:
        """Saying nothing must earn no more than the declared chance."""
        return await self._must_fail(
            "idle",
            "an agent that does nothing must earn nothing",
            lambda task: {"empty": {r: say("") for r in self.env.roles}},
        )

    async def cheats(self) -> Finding:
        """Every cheat the environment ships must score 0."""
        return await self._must_fail(
            "cheats", "cheating must not pay", lambda task: self.env.cheats(task)
        )

    async def _must_fail(
        self,
        probe: str,
        reason: str,
        scripts_of: Callable[[Task], Mapping[str, Mapping[str, Script]]],
    ) -> Finding:
        bad, tried, kinds, paid = [], 0, set(), 0.0
        for task in self.tasks:
            try:
                named = scripts_of(task)
            except Exception as error:
                bad.append(f"{task.id}: {type(error).__name__}: {error}")
                continue
            for name, scripts in named.items():
                outcomes = await self.play(task, scripts)
                for role in scripts:
                    outcome = outcomes[role]
                    tried += 1
                    kinds.add(name)
                    if isinstance(outcome, Scored):
                        paid += outcome.value
                        if outcome.success or (outcome.value > 0 and not self.env.chance):
                            bad.append(f"{task.id} {role} '{name}' earned {outcome.value}")
                    elif not isinstance(outcome, Invalid) or (task.id, role) in self.sound:
                        bad.append(f"{task.id} {role} '{name}': {outcome}")
        if not tried and not bad:
            bad.append("the environment ships none")
        elif self.env.chance and paid / tried > self.env.chance + 1e-9:
            bad.append(f"they earn {paid / tried:.3f}, above the declared chance {self.env.chance}")
        finding = _finding(probe, reason, bad, tried)
        if finding.passed and len(kinds) > 1:
            return Finding(probe, reason, True, f"{len(kinds)} kinds, {tried} tries, all refused")
        return finding

    async def repeats(self) -> Finding:
        """The same episode judged three times must get the same verdict."""
        bad = []
        for task in self.tasks:
            for scripts in ({}, {r: say("") for r in self.env.roles}):
                seen = [
                    json.dumps({r: to_json(o) for r, o in (await self.play(task, scripts)).items()})
                    for _ in range(3)
                ]
                if len(set(seen)) > 1:
                    bad.append(f"{task.id}: {sorted(set(seen))[:2]}")
        reason = "the same answer must always get the same verdict"
        return _finding("same verdict", reason, bad, 6 * len(self.tasks))

    async def hostile(self) -> Finding:
        """Broken answers must be scored 0: not rewarded, not taken for a failure of the machine."""
        texts = {
            "NaN": "NaN",
            "control characters": "\x00\x1b[2J\u202e",
            "lone surrogate": "\ud800",
            "deep nesting": "[" * 5000,
            "long": "1" * 1_000_000,
            "code": "__import__('os')._exit(0)",
            "forged result": '{"reward": 1.0, "success": true}',
        }
        return await self._must_fail(
            "broken answers",
            "a malformed answer is the agent's own fault: Scored(0)",
            lambda task: (
                {n: {r: say(t) for r in self.env.roles} for n, t in texts.items()}
                if task in self.tasks[:5]
                else {}
            ),
        )


def _finding(probe: str, reason: str, bad: list[str], tried: int) -> Finding:
    seen = f"{len(bad)} of {tried}: {bad[0][:160]}" if bad else f"{tried} tries, all as they should"
    return Finding(probe, reason, not bad, seen)


def _digests(env: Environment, n: int) -> str:
    tasks = [env.task(split, i).digest for split in SPLITS for i in range(min(n, env.count(split)))]
    return sha256_json(tasks)


def _determinism(env: Environment, name: str, n: int, settings: Mapping[str, Any]) -> Finding:
    """The same seed must give the same tasks, here and in another process."""
    reason = "seeds decide everything"
    first = _digests(env, n)
    if _digests(env, n) != first:
        return Finding("determinism", reason, False, "two calls gave different tasks")
    code = (
        "import json,sys; from puna.gym.audit import _digests; "
        "from puna.gym.registry import load_environment as load; "
        "name, settings, seed, n = json.loads(sys.argv[1]); "
        "print(_digests(load(name, settings, seed), n))"
    )
    given = json.dumps([name, dict(settings), env.seed, n])
    try:
        other = subprocess.run(
            [sys.executable, "-c", code, given], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return Finding("determinism", reason, False, "another process took over 120 s")
    if other.returncode:
        last = other.stderr.strip().splitlines()[-1:] or ["no message"]
        return Finding("determinism", reason, False, f"another process failed: {last[0][:160]}")
    same = other.stdout.split()[-1:] == [first]
    seen = "two calls and another process agree" if same else "another process makes other tasks"
    return Finding("determinism", reason, same, seen)


def _overlap(env: Environment, most: int = 2000) -> Finding:
    """No problem may be in train and in test."""
    keys = {
        split: {env.task(split, i).key for i in range(min(most, env.count(split)))}
        for split in SPLITS
    }
    common = keys["train"] & keys["test"]
    seen = f"{len(keys['train'])} and {len(keys['test'])} different problems, {len(common)} common"
    if common:
        seen += f", e.g. {sorted(common)[0]!r:.80}"
    return Finding("train/test overlap", "test problems must be new", not common, seen)


def show(found: Audit, as_json: bool = False) -> None:
    """Print the audit: a table for people, JSON for machines."""
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from puna.core.printable import printable

    title = f"audit of {found.env['name']} {found.env['version']} ({found.env['hash']})"
    table = Table(title=Text(printable(title)), title_justify="left")
    for column in ("probe", "", "seen", "why"):
        table.add_column(column)
    for f in found.findings:
        cells = (f.probe, "ok" if f.passed else "FAILED", f.seen, f.reason)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = Console()
    console.print(table)
    verdict = "passed" if found.passed else "FAILED: do not train on this reward yet"
    console.print(f"audit {found.to_json()['id']}: {verdict}", highlight=False)
