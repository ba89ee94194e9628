"""The playing of one round of self-play: solve the pool, propose, solve what is new.

`play = Play(ctx, pace, env, proposer, read_past(source, proposer), base, solver)`, then
`await play.round()`. What is finished stands in a journal, so that a killed round draws the same
again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from puna.core.errors import UserError
from puna.core.journal import Journal, read
from puna.core.rng import derive
from puna.core.runs import weights_hash
from puna.core.stage import StageContext
from puna.engine.policy import SamplingParams
from puna.evals.evaluate import local_policy
from puna.gym.admission import Admission, Gate, made_all, refused
from puna.gym.environment import Environment
from puna.gym.loop import identity
from puna.gym.proposer import CLASSES, Draft, Proposer, difficulty, wanted
from puna.gym.speaker import Speaker, Tries
from puna.gym.task import Task
from puna.gym.trajectory import Episode
from puna.train.loop import at_least_one
from puna.train.optim import require
from puna.train.start import starting_model

STATE = "pool.json"
NO_FORM = ("no whole answer", "not well-formed", "too large", "malformed", "raised")


@dataclass(frozen=True)
class Pace:
    """How much of what a round does; the psv stage says what each means."""

    seeds: int = 200
    samples: int = 10
    proposals: int = 500
    shots: int = 12
    temperature: float = 0.8
    max_tokens: int = 256
    slots: int = 256
    verify: bool = True
    labels: bool = True
    fixed: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that leaves nothing to do."""
        at_least_one(self, "samples", "max_tokens", "slots")
        if min(self.seeds, self.proposals, self.shots) < 0:
            raise ValueError("seeds, proposals and shots must be 0 or more")
        require(0 < self.temperature < float("inf"), self, "temperature", "above 0")


@dataclass
class Item:
    """A task of the pool: how often it was solved last, and the conversation that solved it."""

    draft: Draft
    target: str = ""
    passed: int = 0
    tried: int = 0
    solution: Sequence[Mapping[str, Any]] = ()
    admission: Mapping[str, Any] | None = None

    @property
    def difficulty(self) -> str:
        """Its class by how often it was solved last."""
        return difficulty(self.passed, self.tried)

    def to_json(self, proposer: Proposer) -> dict[str, Any]:
        """A record that `read_past` reads."""
        more = {k: v for k, v in self.__dict__.items() if k != "draft"}
        return {"draft": dict(proposer.to_json(self.draft)), **more}


@dataclass
class Past:
    """What the rounds before left; nothing where this is the first."""

    pool: list[Item] = field(default_factory=list)
    curve: list[Mapping[str, Any]] = field(default_factory=list)
    base: Path | None = None

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.curve)


def read_past(source: Path, proposer: Proposer) -> Past:
    """What the stage in `source` left, if it was a round. Raises UserError where it is broken."""
    path = source / STATE
    if not path.exists():
        return Past()
    try:
        state = json.loads(path.read_text())
        pool = [
            Item(**{**item, "draft": proposer.from_json(item["draft"])}) for item in state["pool"]
        ]
        return Past(pool, state["curve"], (source / state["base"]).resolve())
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = f"remove {source} to play that round again"
        raise UserError(f"{path} is broken: {error!r}", fix) from error


class Play:
    """The playing of one round; what is finished stands in a journal, chunk by chunk.

    A chunk is what is sampled together, so a round that was killed draws the same again.
    """

    def __init__(
        self,
        ctx: StageContext,
        pace: Pace,
        env: Environment,
        proposer: Proposer,
        past: Past,
        base: Path,
        solver: Path,
    ) -> None:
        self.ctx, self.pace, self.env, self.proposer = ctx, pace, env, proposer
        self.pool, self.number = past.pool, past.rounds + 1
        self.first = not past.rounds
        self.gate = Gate(env, proposer.known(), workers=ctx.machine.workers)
        self.gate.known |= {item.draft.task.key for item in self.pool}
        self.base = self._speaker(base)
        self.solver = self.base if solver == base else self._speaker(solver)
        self.log = Journal(ctx.dir / "play.jsonl", "play")
        self.done = {(r["step"], r["chunk"]): r["said"] for r in read(self.log.path)}
        self._same([weights_hash(base), weights_hash(solver), identity(env)["hash"]])
        self.refused: Counter[str] = Counter()
        self.new: list[Item] = []

    def _same(self, inputs: list[str]) -> None:
        """Raises UserError where a round was begun with other weights or another environment."""
        begun = self.done.get(("begin", 0))
        if begun is None:
            self._note("begin", 0, inputs)
        elif begun != inputs:
            what = f"{self.ctx.id}: the weights or the environment changed since it began"
            raise UserError(what, f"restore them, or remove {self.ctx.dir} to play it again")

    def _speaker(self, model: Path) -> Speaker:
        loaded, tokenizer = starting_model(self.ctx, model)
        sampler, meet = local_policy(loaded.eval(), tokenizer, self.ctx.seed, self.pace.slots)
        params = SamplingParams(self.pace.max_tokens, self.pace.temperature)
        wave, workers = self.pace.slots, self.ctx.machine.workers
        return Speaker(self.env, sampler, params, meet=meet, wave=wave, workers=workers)

    def close(self) -> None:
        """Let workers end."""
        for each in {self.base, self.solver}:
            each.close()
        self.gate.close()

    async def round(self) -> None:
        """Solve what there is, propose, solve what is new."""
        if self.first:
            train = (self.env.task("train", i) for i in range(self.env.count("train")))
            self.pool += [Item(Draft(task)) for task in train]
            await self._draw_seeds()
        await self._solve("old", self.pool)
        await self._propose()
        await self._solve("new", self.new)
        self.pool[:] = [item for item in (*self.pool, *self.new) if item.tried]

    async def _draw_seeds(self) -> None:
        """From the proposer's own source, their solutions left aside."""
        for chunk, numbers in enumerate(_chunks(range(self.pace.seeds), 32)):
            said = self.done.get(("seeds", chunk))
            if said is None:
                given = [(n, self.ctx.seed) for n in numbers]
                drafts = await made_all(self.proposer.draw, given, self.ctx.machine.workers)
                said = await self._screened(drafts, [""] * len(drafts))
                self._note("seeds", chunk, said)
            self.pool += [item for record in said if (item := self._item(record))]
            self._show("seeds", len(numbers) + 32 * chunk, self.pace.seeds)

    async def _propose(self) -> None:
        """The base model writes tasks after the pool's examples, of a class drawn evenly."""
        examples = [(item.draft.task, item.difficulty) for item in self.pool if item.tried]
        seed, total = derive(self.ctx.seed, "psv", self.number), self.pace.proposals
        for chunk, numbers in enumerate(_chunks(range(total), self.pace.slots)):
            said = self.done.get(("propose", chunk))
            if said is None:
                said = await self._proposed(examples, numbers, seed)
                self._note("propose", chunk, said)
            self.refused.update(record["reason"] for record in said if record["reason"])
            self.new += [item for record in said if (item := self._item(record))]
            self._show("propose", numbers[-1] + 1, total)

    async def _proposed(
        self, examples: Sequence[tuple[Task, str]], numbers: Sequence[int], seed: int
    ) -> list[dict[str, Any]]:
        pace = self.pace
        asked = [
            wanted(examples, n, seed, shots=pace.shots, labels=pace.labels, fixed=pace.fixed)
            for n in numbers
        ]
        prompts = [
            (("psv", self.number, n), self.proposer.ask(each))
            for n, each in zip(numbers, asked, strict=True)
        ]
        texts = await self.base.answer(prompts)
        given = [(t, 1_000_000 * self.number + n) for t, n in zip(texts, numbers, strict=True)]
        whole = [pair for pair in given if pair[0] is not None]
        made = iter(await made_all(self.proposer.draft, whole, self.ctx.machine.workers))
        drafts = [refused("no whole answer") if t is None else next(made) for t in texts]
        return await self._screened(drafts, [want.target for want in asked])

    async def _screened(
        self, drafts: Sequence[Draft | Admission], targets: Sequence[str]
    ) -> list[dict[str, Any]]:
        """A record of each draft that the gate lets pass so far, or of why it does not."""
        verdicts = await self.gate.screen_all(drafts)
        said = []
        for draft, against, target in zip(drafts, verdicts, targets, strict=True):
            kept = None
            if against is None and isinstance(draft, Draft):
                kept = dict(self.proposer.to_json(draft))
            reason = against.reason if against else ""
            said.append({"draft": kept, "target": target, "reason": reason})
        return said

    def _item(self, record: Mapping[str, Any]) -> Item | None:
        if record["draft"] is None:
            return None
        draft = replace(self.proposer.from_json(record["draft"]), reference={}, mutants={})
        self.gate.known.add(draft.task.key)
        return Item(draft, record["target"])

    async def _solve(self, step: str, items: Sequence[Item]) -> None:
        """Answer each task `samples` times; keep the first solution that the gate accepts."""
        each = max(1, self.pace.slots // self.pace.samples)
        for chunk, some in enumerate(_chunks(items, each)):
            said = self.done.get((step, chunk))
            if said is None:
                key = ("psv", self.number, step, chunk)
                tasks = [item.draft.task for item in some]
                tried = await self.solver.solve(tasks, self.pace.samples, key)
                said = list(await asyncio.gather(*map(self._judged, some, tried)))
                self._note(step, chunk, said)
            for item, record in zip(some, said, strict=True):
                item.passed, item.tried = record["passed"], record["tried"]
                if record["solution"]:
                    item.solution, item.admission = record["solution"], record["admission"]
                elif record["reason"]:
                    self.refused[record["reason"]] += 1
                    item.tried = 0  # its verifier is not to be trusted: out of the pool
            self._show(step, each * chunk + len(some), len(items))

    async def _judged(self, item: Item, tries: Tries) -> dict[str, Any]:
        """How a task fared, and where it had no solution yet the one it has now."""
        record: dict[str, Any] = {"passed": tries.passed, "tried": tries.tried}
        record |= {"solution": None, "admission": None, "reason": ""}
        if item.solution:
            return record
        if not self.pace.verify:
            some = (e for e in tries.episodes if self.proposer.plausible(item.draft.task, e))
            episode = next(some, None)
            record["solution"] = _messages(episode) if episode else None
            return record
        if tries.right:
            draft = self.proposer.solved(item.draft, tries.right[0])
            verdict = await self.gate.decide(draft, tries.passed, tries.tried)
            if verdict.admitted:
                record |= {"solution": _messages(tries.right[0]), "admission": verdict.to_json()}
            else:
                record["reason"] = verdict.reason
        return record

    def _note(self, step: str, chunk: int, said: Sequence[Any]) -> None:
        self.log.append({"step": step, "chunk": chunk, "said": list(said)}, sync=True)

    def _show(self, step: str, done: int, total: int) -> None:
        found = {"pool": float(len(self.pool) + len(self.new))}
        self.ctx.progress.step(f"{self.ctx.id} {step}", done, total, found)

    def figures(self) -> dict[str, float]:
        """What tells a round that goes well from one that collapses."""
        rates = [item.passed / item.tried for item in self.pool]
        out: dict[str, float] = {"pool": len(self.pool), "new": len(self.new)}
        out["pass_rate"] = median(rates) if rates else 0.0
        out["solved"] = fmean(bool(item.solution) for item in self.pool) if self.pool else 0.0
        classes = Counter(item.difficulty for item in self.pool)
        out |= {name: classes[name] for name in CLASSES}
        for name in CLASSES:
            met = [i.passed / i.tried for i in self.new if i.target == name and i.tried]
            if met:
                out[f"rate_{name}"] = fmean(met)
        if asked := self.pace.proposals:
            stubs = self.refused["stub-passable"] + self.refused["vacuous"]
            fit, formed = len(self.new) + self.refused["duplicate"], asked
            formed -= sum(self.refused[reason] for reason in NO_FORM)
            out["well_formed"] = formed / asked
            out["unique"] = len(self.new) / fit if fit else 0.0
            out["stub_share"] = stubs / formed if formed else 0.0
        return out


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _messages(episode: Episode) -> list[dict[str, Any]]:
    """A conversation as a row of training data."""
    return [message.to_openai() for _, message in episode.transcript]
