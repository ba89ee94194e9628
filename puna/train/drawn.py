"""Rows that a model makes itself: its right answers, and the pairs of SPOC's PairSFT.

`draw_rows(ctx, path, env, model, tokenizer, 500, DrawConfig(), "pairs")` writes a file that
`read_messages` reads. Zhao et al. 2025 (arXiv 2506.06923), section 3.1; docs/spoc.md says what
differs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from puna.core.errors import UserError
from puna.core.files import write_text
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.core.rng import stream
from puna.core.stage import StageContext
from puna.engine.policy import SamplingParams
from puna.evals.playing import play_tasks
from puna.gym.environment import Environment
from puna.gym.loop import Context, Group, Job
from puna.gym.passes import QUESTION
from puna.gym.task import Task
from puna.gym.trajectory import Episode, Trajectory
from puna.gym.verify import judge_group
from puna.gym.workers import Workers
from puna.models.decoder import Decoder
from puna.text.tokenizer import Tokenizer
from puna.train.critiques import Critiques, Solution
from puna.train.data import train_tasks
from puna.train.loop import at_least_one
from puna.train.optim import require


@dataclass(frozen=True)
class DrawConfig:
    """How rows are drawn: `samples` answers to each of `demos` train tasks, from the middle on.

    `wrong` is the share of pairs whose first solution is wrong, `most` how many rows are taken at
    most (0: all). With `critique` "model" the model is asked for one of each solution; "none" gives
    the verdict alone, for a model too small to be asked.
    """

    samples: int = 8
    temperature: float = 1.0
    max_tokens: int = 64
    wrong: float = 0.5
    most: int = 0
    critique: Literal["model", "none"] = "none"

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that leaves nothing to learn."""
        at_least_one(self, "samples", "max_tokens")
        require(self.most >= 0, self, "most", "0 or more")
        require(self.temperature > 0, self, "temperature", "above 0")
        require(0 < self.wrong < 1, self, "wrong", "between 0 and 1")


@dataclass(frozen=True)
class Pair:
    """A solution and the verification of it."""

    solution: Solution
    verification: str

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The texts of the answer, and whether each is learned: what is wrong is context only.

        A wrong solution is followed by the reference, and that by Yes: an answer ends on a verdict.
        """
        first, after = self.solution, f"\n{self.verification}"
        if first.right:
            return [(first.text, True), (after, True)]
        return [(first.text, False), (f"{after}\n{first.reference}\n{QUESTION} Yes", True)]

    @property
    def parts(self) -> dict[str, float]:
        """What a verifier has to find in the answer."""
        if self.solution.right:
            return {"solution 1": 1.0, "verdict 1": 1.0}
        return {"solution 1": 0.0, "verdict 1": 0.0, "solution 2": 1.0, "verdict 2": 1.0}


def draw_rows(
    ctx: StageContext,
    path: Path,
    env: Environment,
    model: Decoder,
    tokenizer: Tokenizer,
    tasks: int,
    config: DrawConfig,
    kind: str,
) -> None:
    """Write the rows that `model` gives of `tasks` train tasks of `env` to `path`.

    Raises UserError where it gives none.
    """
    params = SamplingParams(config.max_tokens, config.temperature)

    def play(env: Environment, tasks: range, samples: int) -> list[Group]:
        jobs = [Job("train", i, samples, ("draw",)) for i in tasks]
        return play_tasks(ctx, env, model, tokenizer, jobs, params, lambda group: group)

    count = train_tasks(env, tasks)
    first = (env.count("train") - count) // 2  # RL begins with the first, demonstrations end it
    groups = play(env, range(first, first + count), config.samples)
    what = f"{ctx.id}: no answer to {count} tasks of {env.name} was right"
    if kind == "right":
        rows = [row for group in groups for row in right_rows(group)]
    else:
        solutions = [solution for group in groups for solution in solutions_of(group)]
        if config.critique == "model":
            asked = play(Critiques(solutions), range(len(solutions)), 1)
            pairs = criticised(solutions, [group.trajectories[0] for group in asked])
        else:
            pairs = [Pair(s, f"{QUESTION} {'Yes' if s.right else 'No'}") for s in solutions]
        rows = balanced(as_meant(env, pairs), config.wrong, ctx.seed)
        if groups and not any(_credited(t) for group in groups for t in group.trajectories):
            fix = 'give one such as env = { id = "math", turns = 3 }'
            raise UserError(f"{ctx.id}: {env.name} has no answers of several messages", fix)
        what = f"{ctx.id}: {count} tasks of {env.name} gave no pairs of both kinds"
    rows = rows[: config.most or None]
    if not rows:
        fix = f"train longer before it, or raise {ctx.id}.demos and {ctx.id}.draw.samples"
        raise UserError(what, fix)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows), "rows")
    ctx.progress.note(f"{ctx.id}: {len(rows)} rows of {count} tasks")


def criticised(solutions: Sequence[Solution], said: Sequence[Trajectory]) -> list[Pair]:
    """Those whose critique is in form and comes to the verdict due."""
    pairs = zip(solutions, said, strict=True)
    return [Pair(s, t.episode.said().strip()) for s, t in pairs if _scored(t).success]


def _scored(trajectory: Trajectory) -> Scored:
    """The outcome; one that is not Scored is no success."""
    outcome = next(iter(trajectory.outcomes.values()))
    return outcome if isinstance(outcome, Scored) else Scored(0.0, False)


def _credited(trajectory: Trajectory) -> bool:
    return bool(_scored(trajectory).credits)


def right_rows(group: Group) -> list[dict[str, Any]]:
    """A row for each different right answer."""
    right = [t.episode.said() for t in group.trajectories if _scored(t).success]
    return [_row(group.task, [(text, True)]) for text in dict.fromkeys(right)]


def solutions_of(group: Group) -> list[Solution]:
    """The first wrong first solution and a right one, of tasks where the model gave both.

    The first right one is the reference; the right one to judge is the next, perhaps the same.
    """
    found: dict[bool, list[str]] = {True: [], False: []}
    for trajectory in group.trajectories:
        outcome, said = _scored(trajectory), trajectory.episode.said()
        whole = trajectory.episode.ended == "done" or "verdict 1" in outcome.parts
        if outcome.credits and whole:
            first = outcome.credits[0]
            found[outcome.parts["solution 1"] > 0].append(said[first.start : first.end].strip())
    right, wrong = found[True], found[False]
    if not right or not wrong:
        return []
    solutions = [Solution(group.task, wrong[0], right[0], False)]
    return solutions + [Solution(group.task, text, right[0], True) for text in right[1:2]]


def as_meant(env: Environment, pairs: Sequence[Pair]) -> list[Pair]:
    """Those whose answer the environment's verifier reads as it is meant, to its last character."""

    async def judged() -> list[Pair]:
        workers, kept = Workers(1), []
        for pair in pairs:
            task, text = pair.solution.task, "".join(piece for piece, _ in pair.pieces)
            opening = tuple(("env", m) for m in task.messages)
            episode = Episode(task.id, (*opening, (env.roles[0], Message.assistant(text))))
            verdicts = await judge_group(env, task, [episode], Context(), workers)
            outcome = verdicts[0][env.roles[0]]
            fits = isinstance(outcome, Scored) and dict(outcome.parts) == pair.parts
            if fits and isinstance(outcome, Scored) and outcome.credits[-1].end == len(text):
                kept.append(pair)
        workers.close()
        return kept

    return asyncio.run(judged())


def balanced(pairs: Sequence[Pair], wrong: float, seed: int) -> list[dict[str, Any]]:
    """Rows of which the share `wrong` begins with a wrong solution, as many as there can be.

    In random order; what is left over of one kind is dropped.
    """
    kinds = [[p for p in pairs if p.solution.right is right] for right in (False, True)]
    total = min(len(kinds[0]) / wrong, len(kinds[1]) / (1 - wrong))
    counts = int(total * wrong + 1e-9), int(total * (1 - wrong) + 1e-9)
    if not all(counts):
        return []
    rng = stream(seed, "pairs")
    kept = [p for kind, n in zip(kinds, counts, strict=True) for p in _some(rng, kind, n)]
    return [_row(p.solution.task, p.pieces) for p in _some(rng, kept, len(kept))]


def _some(rng: Any, pairs: Sequence[Pair], count: int) -> list[Pair]:
    return [pairs[i] for i in rng.permutation(len(pairs))[:count]]


def _row(task: Task, pieces: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    asked = [m.to_openai() for m in task.messages]
    content = [{"type": "text", "text": text, "weight": int(learn)} for text, learn in pieces]
    return {"messages": [*asked, {"role": "assistant", "content": content}]}
