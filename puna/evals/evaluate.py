"""Play tasks, judge them, summarise: `evaluate(env, {"agent": policy}, n=200, k=4)`.

Finished groups are journalled, so an evaluation that was killed goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import UserError
from puna.core.journal import Journal, read
from puna.core.outcome import Infra, Invalid, Outcome, Scored, from_json
from puna.core.rng import Key
from puna.core.stage import Machine
from puna.core.stats import Estimate, Score, mean_interval, summarize
from puna.engine.local import Engine
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler, Rendezvous
from puna.evals.turns import TurnMetrics, turn_metrics, verdict_chances
from puna.gym.environment import Environment
from puna.gym.loop import Agent, Group, Job, Rollout, identity
from puna.gym.seat import Policy
from puna.gym.trajectory import save_artifacts
from puna.models.decoder import Decoder
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EvalResult:
    """Scores by role, and by role and tag; outcomes by task id for paired comparison.

    `turns` tells what self-correction does (the first role's), where answers are of several
    messages; `majority` is the score of the commonest of a task's answers, where the environment
    says so; `tokens` are those of an answer, in the mean, and `surprisal` what one of them cost, in
    nats (of a Sampler): where they were drawn at temperature 1, an estimate of the entropy.
    """

    env: Mapping[str, str]
    scores: Mapping[str, Score]
    by_tag: Mapping[str, Score]
    outcomes: Mapping[str, Mapping[str, list[Outcome]]]
    usage: Mapping[str, float] = field(default_factory=dict)
    turns: TurnMetrics | None = None
    majority: Estimate | None = None
    tokens: float = 0.0
    surprisal: float | None = None

    @property
    def score(self) -> Score:
        """The score of the first role."""
        return next(iter(self.scores.values()))

    def extras(self) -> dict[str, Any]:
        """What belongs to the first role's score: tokens, and what else is known."""
        out: dict[str, Any] = {"tokens": self.tokens}
        if self.surprisal is not None:
            out["surprisal"] = self.surprisal
        if self.turns is not None:
            out["turns"] = self.turns.to_json()
        if self.majority is not None:
            out["majority"] = asdict(self.majority)
        return out

    def tags_of(self, role: str) -> dict[str, Score]:
        """One role's part of `by_tag`, named by tag alone."""
        if len(self.scores) == 1:
            return dict(self.by_tag)
        head = f"{role}: "
        return {t.removeprefix(head): s for t, s in self.by_tag.items() if t.startswith(head)}


def evaluate(
    env: Environment,
    policies: Mapping[str, Policy],
    *,
    n: int,
    k: int = 1,
    agents: Mapping[str, Agent] | None = None,
    split: str = "test",
    first: int = 0,
    step: int = 1,
    params: SamplingParams | None = None,
    meet: Rendezvous | None = None,
    journal: Path | None = None,
    policy: str = "",
    key: tuple[Key, ...] = ("eval",),
    workers: int = 2,
    concurrency: int = 64,
    progress: Callable[[int, int, float], None] = lambda done, total, mean: None,
) -> EvalResult:
    """Score `policies` on `n` tasks of `split`, every `step`-th from `first`, `k` episodes each.

    With `journal` every judged group is appended there as it is done, its artifacts to the folder
    `artifacts` beside it by SHA-256, and found again later by an evaluation of the same `policy`
    (the hash of its weights). `key` comes first in the names of all random streams. With `agents`
    the roles' policies act through them, in at most `concurrency` episodes at once. An evaluation
    that goes on forms other batches than one left alone, so the last bits of its log-probabilities,
    and what hangs on them, may differ.
    Raises UserError where `split` has none of these tasks.
    """
    wanted = range(first, min(first + n * step, env.count(split)), step)
    if not wanted:
        raise UserError(
            f"{env.name} has no tasks {first} to {first + n} in {split}", f"of {env.count(split)}"
        )
    n = len(wanted)
    env_hash = identity(env)["hash"]
    earlier = _read_done(journal, k, split, env_hash, policy) if journal else {}
    done = {i: record for i, record in earlier.items() if i in wanted}
    jobs = [Job(split, i, k, key) for i in wanted if i not in done]
    rollout = Rollout(
        env,
        policies,
        params,
        agents=agents,
        meet=meet,
        wave=concurrency if agents else 256,
        workers=workers,
        concurrency=concurrency,
    )
    log = Journal(journal, "episodes") if journal else None

    async def play() -> None:
        total, seen = 0.0, 0
        async for group in rollout.run(jobs):
            record = _record(group, env_hash, policy) | _chances(group, policies)
            if journal is not None:
                for trajectory in group.trajectories:
                    save_artifacts(trajectory, journal.parent / "artifacts")
            done[group.job.index] = record
            if log is not None:
                log.append(record)
            for outcomes in record["outcomes"]:
                if "value" in outcomes[env.roles[0]]:
                    total += outcomes[env.roles[0]]["value"]
                    seen += 1
            progress(len(done), n, total / max(1, seen))

    try:
        asyncio.run(play())
    finally:
        rollout.close()
    return _result(env, rollout.identity, [done[i] for i in sorted(done)], k)


def all_there_are(env: Environment, n: int, split: str = "test") -> str:
    """What to say where `n` tasks are asked for and `split` has fewer; "" where it has enough."""
    there = env.count(split)
    return f"{env.name} has {there:,} {split} tasks, not {n:,}: all are played" if n > there else ""


def place_on(model: Decoder, machine: Machine) -> Decoder:
    """`model` ready to sample as the stages of a run on `machine` do."""
    model.compute_dtype, model.decode_weights = getattr(torch, machine.dtype), machine.weights
    model.to(machine.device)
    return model.eval()


def local_policy(
    model: Decoder, tokenizer: Tokenizer, seed: int, slots: int = 256
) -> tuple[LocalSampler, Rendezvous]:
    """A sampler over a model in this process, and the rendezvous to hand to `evaluate`."""
    meet = Rendezvous()
    return LocalSampler(Engine(model, tokenizer, seed, slots), meet), meet


def _record(group: Group, env_hash: str, policy: str) -> dict[str, Any]:
    records = [t.to_json(tokens=False) for t in group.trajectories]
    return {
        "env": env_hash,
        "policy": policy,
        "split": group.job.split,
        "index": group.job.index,
        "k": group.job.k,
        "task": group.task.id,
        "tags": dict(group.task.tags),
        "outcomes": [r["outcomes"] for r in records],
        "usage": [r["usage"] for r in records],
        "surprisal": _surprisal(group),
        "transcripts": [r["transcript"] for r in records],
        "ended": [r["ended"] for r in records],
        "artifacts": [r["artifacts"] for r in records],
    }


def _chances(group: Group, policies: Mapping[str, Policy]) -> dict[str, Any]:
    """Of answers made of several messages, with what probability each verdict was yes."""
    role = next(iter(policies))
    tokenizer = getattr(policies[role], "tokenizer", None)
    if tokenizer is None:
        return {}
    found = [verdict_chances(t, role, tokenizer) for t in group.trajectories]
    return {"chances": found} if any(found) else {}


def _surprisal(group: Group) -> tuple[float, int]:
    """The nats of all tokens that were sampled, and how many they are."""
    branches = [b for t in group.trajectories for found in t.branches.values() for b in found]
    nats = -sum(p for b in branches for p, m in zip(b.logprobs, b.mask, strict=True) if m)
    return nats, sum(sum(b.mask) for b in branches)


def _read_done(
    journal: Path, k: int, split: str, env_hash: str, policy: str
) -> dict[int, dict[str, Any]]:
    """Judged groups of an earlier try; those with a failure of the machinery are played again."""
    out = {}
    for record in read(journal):
        if (record.get("env"), record.get("split")) != (env_hash, split):
            continue
        if record.get("policy", "") != policy:
            continue
        outcomes = record.get("outcomes", [])
        broken = any(o.get("kind") == "infra" for roles in outcomes for o in roles.values())
        if record.get("k") == k and not broken:
            out[record["index"]] = record
    return out


def _result(
    env: Environment, identity: Mapping[str, str], records: Sequence[dict[str, Any]], k: int
) -> EvalResult:
    outcomes: dict[str, dict[str, list[Outcome]]] = {role: {} for role in env.roles}
    tagged: dict[str, dict[str, list[Outcome]]] = {}
    usage: dict[str, float] = {}
    for record in records:
        for used in record["usage"]:
            for key, value in used.items():
                usage[key] = usage.get(key, 0.0) + value
        for role in env.roles:
            found = [from_json(o[role]) for o in record["outcomes"]]
            outcomes[role][record["task"]] = found
            for tag, value in record["tags"].items():
                name = f"{tag}={value}" if len(env.roles) == 1 else f"{role}: {tag}={value}"
                tagged.setdefault(name, {})[record["task"]] = found
    first = outcomes[env.roles[0]]
    chances = {r["task"]: r["chances"] for r in records if "chances" in r}
    votes = [
        [o.parts["majority"] for o in found if isinstance(o, Scored) and "majority" in o.parts]
        for found in first.values()
    ]
    episodes = sum(len(record["usage"]) for record in records)
    nats, sampled = map(sum, zip(*(r.get("surprisal", (0, 0)) for r in records), strict=True))
    return EvalResult(
        identity,
        {role: summarize(tasks, k) for role, tasks in outcomes.items()},
        {name: summarize(tasks, k) for name, tasks in sorted(tagged.items())},
        outcomes,
        usage,
        turn_metrics(first, chances),
        mean_interval([v for v in votes if v]) if any(votes) else None,
        usage.get("sampled_tokens", 0.0) / max(1, episodes),
        nats / sampled if sampled else None,
    )


def failures(outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """Distinct reasons of Infra and Invalid outcomes."""
    reasons: dict[str, None] = {}
    for outcome in (o for found in outcomes.values() for o in found):
        match outcome:
            case Infra(error=text) | Invalid(reason=text):
                reasons[text] = None
            case _:
                pass
    return list(reasons)
