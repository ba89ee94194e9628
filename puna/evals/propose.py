"""`puna propose`: proposals through the gate into a file of JSON lines, and a table of what came.

`propose("proofs", n=100, out=Path("new.jsonl"))`. A killed run goes on with the same call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.journal import Journal, last_by, read
from puna.core.progress import Progress
from puna.core.threads import default_threads
from puna.engine.policy import EndpointError, SamplingParams
from puna.gym.admission import Admission, Gate, made_all, refused
from puna.gym.environment import Environment
from puna.gym.loop import identity
from puna.gym.proposer import CLASSES, Draft, Proposer, difficulty, wanted
from puna.gym.registry import load_environment
from puna.gym.speaker import Speaker, Tries
from puna.gym.task import Task

BATCH = 32  # proposals whose prompts show what was admitted before all of them


@dataclass(frozen=True)
class Proposed:
    """All records of a file of proposals, in order."""

    path: Path
    records: tuple[Mapping[str, Any], ...]

    @property
    def admitted(self) -> int:
        """How many became tasks."""
        return sum(r["admission"]["admitted"] for r in self.records)


def propose(
    env: str,
    *,
    n: int,
    out: str | Path,
    model: str = "",
    model_name: str = "",
    api_key_env: str = "",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    tries: int = 8,
    shots: int = 12,
    temperature: float = 0.8,
    max_tokens: int = 512,
    concurrency: int = 16,
    useful: tuple[float, float] = (0.0, 1.0),
    progress: str = "quiet",
) -> Proposed:
    """Make `n` proposals for an environment and write each, with its admission, to `out`.

    Without `model` they come from the environment's own source. With one (an endpoint's address, or
    a run) it proposes, shown `shots` examples, and solves: `tries` answers to each, whose pass
    rate is the task's difficulty and of which a right one becomes its reference.
    Raises UserError where the environment has no proposer, or `out` is another file.

    >>> import puna
    >>> found = puna.propose("proofs", n=2, out="new.jsonl")
    >>> len(found.records), found.path.name
    (2, 'new.jsonl')
    """
    out = Path(out)
    if n < 1 or tries < 1 or shots < 0:
        raise UserError(f"n is {n}, tries {tries}, shots {shots}", "give 1, 1 and 0 or more")
    if not 0 <= useful[0] <= useful[1] <= 1:
        raise UserError(f"useful is {useful[0]} to {useful[1]}", "give two shares of 1")
    environment = load_environment(env, settings, 0)
    try:
        proposer = environment.proposer()
    except NotImplementedError:
        raise UserError(
            f"{env} has no proposer", "docs/proposers.md says how to write one"
        ) from None
    facts: dict[str, Any] = {"env": identity(environment), "seed": seed, "useful": list(useful)}
    if model:
        facts |= {"model": model, "name": model_name, "tries": tries}
        facts |= {"shots": shots, "temperature": temperature, "max_tokens": max_tokens}
    done = _begun(out, facts)
    show = Progress(progress)
    gate = Gate(environment, useful=useful, workers=default_threads())
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(gate.close)
            stack.callback(show.close)
            speaker = None
            if model:
                params = SamplingParams(max_tokens, temperature)
                where = (model, model_name, api_key_env, concurrency)
                speaker = stack.enter_context(_speaker(environment, params, *where))
            work = _Work(environment, proposer, gate, speaker, out, seed, tries, shots, show)
            asyncio.run(work.run(done, n))
    except EndpointError as error:
        raise UserError(f"the endpoint failed: {error}", "the same command goes on") from error
    records = last_by(out, "number")
    return Proposed(out, tuple(records[number] for number in range(n)))


def _begun(out: Path, facts: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The records that `out` has; it is begun where it is not there. Raises UserError."""
    if out.is_dir():
        raise UserError(f"{out} is a directory", "name a file in it")
    if out.exists() and out.stat().st_size:
        first, *rest = [*read(out)] or [{}]
        if first.get("proposals") == facts:
            return rest
        what = "other settings" if "proposals" in first else "something else"
        raise UserError(f"{out} holds {what}", "name another file, or take it away")
    Journal(out, "propose").append({"proposals": dict(facts)}, sync=True)
    return []


@contextlib.contextmanager
def _speaker(
    env: Environment,
    params: SamplingParams,
    model: str,
    name: str,
    api_key_env: str,
    concurrency: int,
) -> Iterator[Speaker]:
    """The model that proposes and solves. Raises UserError where there is none."""
    if model.startswith(("http://", "https://")):
        from puna.engine.remote import RemoteChat, RemoteConfig, served

        config = served(
            RemoteConfig(
                url=model,
                model=name or None,
                api_key_env=api_key_env or None,
                concurrency=concurrency,
            )
        )
        speaker = Speaker(env, RemoteChat(config), params, concurrency=concurrency)
    else:
        from puna.core.runs import find_model, home_of
        from puna.core.threads import set_threads
        from puna.evals.evaluate import local_policy, place_on
        from puna.models import load
        from puna.text.tokenizer import Tokenizer

        directory, _ = find_model(Path(model))
        home = home_of(directory)
        set_threads(home.machine.threads)
        tokenizer = Tokenizer.load(directory).require_chat(directory)
        policy, meet = local_policy(place_on(load(directory)[0], home.machine), tokenizer, 0)
        speaker = Speaker(env, policy, params, meet=meet)
    try:
        yield speaker
    finally:
        speaker.close()


@dataclass
class _Work:
    """One run of `propose`."""

    env: Environment
    proposer: Proposer
    gate: Gate
    speaker: Speaker | None
    out: Path
    seed: int
    tries: int
    shots: int
    show: Progress

    def __post_init__(self) -> None:
        self.log = Journal(self.out, "propose")
        self.gate.known |= set(self.proposer.known())

    async def run(self, done: Sequence[Mapping[str, Any]], n: int) -> None:
        """All proposals below `n`; a batch that `done` has not whole is made anew."""
        found = {r["number"]: r for r in done if "number" in r}
        pool = await self._seeds(done) if self.speaker else []
        for start in range(0, n, BATCH):
            numbers = range(start, min(start + BATCH, n))
            if all(number in found for number in numbers):
                for number in numbers:
                    self._remember(found[number])
            else:
                for record in await self._batch(numbers, pool):
                    found[record["number"]] = record
                    self.log.append(record)
                good = sum(found[i]["admission"]["admitted"] for i in range(numbers.stop))
                self.show.step("propose", numbers.stop, n, {"admitted": good})
            pool = [*pool, *self._examples(found, numbers)]

    def _remember(self, record: Mapping[str, Any]) -> None:
        """What was proposed before a restart is a duplicate after it as well."""
        if record["draft"] is not None:
            self.gate.known.add(self.proposer.from_json(record["draft"]).task.key)

    def _examples(
        self, found: Mapping[int, Mapping[str, Any]], numbers: Sequence[int]
    ) -> list[tuple[Task, str]]:
        """What a batch adds to the examples that later prompts may show."""
        records = [found[number] for number in numbers] if self.speaker else []
        return [
            (self.proposer.from_json(r["draft"]).task, r["admission"]["difficulty"])
            for r in records
            if r["admission"]["admitted"]
        ]

    async def _seeds(self, done: Sequence[Mapping[str, Any]]) -> list[tuple[Task, str]]:
        """The environment's train tasks, each with its class for this solver."""
        assert self.speaker is not None
        known = {r["index"]: r for r in done if "index" in r}
        pool = []
        for index in range(self.env.count("train")):
            task = self.env.task("train", index)
            if index not in known:
                (found,) = await self.speaker.solve([task], self.tries, ("seed", self.seed, index))
                record = {"index": index, "passed": found.passed, "tried": found.tried}
                known[index] = record
                self.log.append(record)
                self.show.step("seeds", index + 1, self.env.count("train"), {})
            pool.append((task, difficulty(known[index]["passed"], known[index]["tried"])))
        return pool

    async def _batch(
        self, numbers: Sequence[int], pool: Sequence[tuple[Task, str]]
    ) -> list[dict[str, Any]]:
        """A record for each number: drafted, screened, solved where there is a solver, decided."""
        targets, drafts = await self._drafts(numbers, pool)
        screened = await self.gate.screen_all(list(drafts.values()))
        verdicts = dict(zip(drafts, screened, strict=True))
        good = {n: d for n, d in drafts.items() if isinstance(d, Draft) and verdicts[n] is None}
        tried: Mapping[int, Tries] = {}
        if self.speaker is not None:
            tasks, key = [d.task for d in good.values()], ("solve", self.seed, numbers[0])
            tried = dict(zip(good, await self.speaker.solve(tasks, self.tries, key), strict=True))
        rates = {}
        for number, found in tried.items():
            rates[number] = (found.passed, found.tried)
            if found.right:
                good[number] = self.proposer.solved(good[number], found.right[0])
        decided = [self.gate.decide(d, *rates.get(n, (0, 0))) for n, d in good.items()]
        verdicts |= dict(zip(good, await asyncio.gather(*decided), strict=True))
        drafts |= good
        return [self._record(n, targets.get(n, ""), drafts[n], verdicts[n]) for n in numbers]

    async def _drafts(
        self, numbers: Sequence[int], pool: Sequence[tuple[Task, str]]
    ) -> tuple[dict[int, str], dict[int, Draft | Admission]]:
        """By number: the class that was asked for, and the draft or why there is none."""
        if self.speaker is None:
            given = [(n, self.seed) for n in numbers]
            drawn = await made_all(self.proposer.draw, given, default_threads())
            return {}, dict(zip(numbers, drawn, strict=True))
        asked = {n: wanted(pool, n, self.seed, shots=self.shots) for n in numbers}
        prompts = [(("propose", self.seed, n), self.proposer.ask(w)) for n, w in asked.items()]
        answers = await self.speaker.answer(prompts)
        whole = [(t, n) for n, t in zip(asked, answers, strict=True) if t is not None]
        made = iter(await made_all(self.proposer.draft, whole, default_threads()))
        drafts = {
            n: refused("no whole answer") if text is None else next(made)
            for n, text in zip(asked, answers, strict=True)
        }
        return {n: w.target for n, w in asked.items()}, drafts

    def _record(
        self, number: int, target: str, draft: Draft | Admission, verdict: Admission | None
    ) -> dict[str, Any]:
        assert verdict is not None
        kept = dict(self.proposer.to_json(draft)) if isinstance(draft, Draft) else None
        return {
            "number": number,
            "target": target,
            "draft": kept,
            "admission": verdict.to_json(),
        }


def print_proposed(found: Proposed) -> None:
    """How many were admitted, by class, and how many refused, by reason."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    of_class: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for record in found.records:
        verdict = record["admission"]
        asked[record["target"]] += 1
        if verdict["admitted"]:
            of_class[verdict["difficulty"]] += 1
        else:
            reasons[verdict["reason"]] += 1
    table = Table(title=f"{found.admitted:,} of {len(found.records):,} admitted")
    for column in ("class", "asked for", "admitted"):
        table.add_column(column)
    for name in (*CLASSES, ""):
        if asked[name] or of_class[name]:
            shown = name or ("not measured" if of_class[name] else "any")
            table.add_row(shown, str(asked[name]), str(of_class[name]))
    console.print(table)
    if reasons:
        table = Table(title="refused")
        for column in ("reason", "proposals"):
            table.add_column(column)
        for reason, count in reasons.most_common():
            table.add_row(reason, str(count))
        console.print(table)
    console.print(f"written to {found.path}", markup=False, highlight=False)
