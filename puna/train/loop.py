"""The loop shared by stages that learn from rows: steps, metrics, checkpoints, exact resume.

A batch is a function of (seed, step) alone, so a resumed run repeats the very steps it lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from puna.core.errors import UserError
from puna.core.files import NewDirectory, crash_point
from puna.core.journal import Journal
from puna.core.rng import stream
from puna.core.runs import weights_hash
from puna.core.stage import StageContext, StageError, Stopwatch
from puna.core.threads import keep_freed_memory
from puna.models import lora
from puna.models.decoder import Decoder
from puna.text.packing import Packed
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import Checkpoints, load_model, model_directory, save_model
from puna.train.fitting import Ladder
from puna.train.lanes import Lanes
from puna.train.optim import OptimConfig, learning_rate, make_optimizer, update

COMPILED = 50_000_000  # parameters: below it compiling takes longer than it saves

Result = TypeVar("Result")

LossFn = Callable[[int], dict[str, float]]
"""Step number in; runs backward for the whole batch; returns its figures, `tokens` among them."""


def at_least_one(config: object, *names: str) -> None:
    """Raises ValueError naming the first of these settings that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, must be at least 1")


def epoch_rows(
    seed: int, stage: str, step: int, count: int, total: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The `count` row numbers of a step: whole epochs of `total` rows, each in its own order."""
    return epoch_span(seed, stage, step * count, (step + 1) * count, total)


def epoch_span(
    seed: int, stage: str, start: int, stop: int, total: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Draws `start` to `stop` of an endless sequence of epochs, each in its own order."""
    wanted = np.arange(start, stop)
    out = np.empty(len(wanted), dtype=np.int64)
    for epoch in np.unique(wanted // total):
        order = stream(seed, stage, "epoch", int(epoch)).permutation(total)
        mine = wanted // total == epoch
        out[mine] = order[wanted[mine] % total]
    return out


def packed_inputs(
    packed: Packed, rows: np.ndarray[Any, Any], model: Decoder
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, positions and documents of packed rows, where the model is."""
    ids, positions, documents = (
        torch.from_numpy(a[rows]).long().to(model.device)
        for a in (packed.ids_NT, packed.positions_NT, packed.documents_NT)
    )
    return ids, positions, documents


def micro_budget(wanted: int, model: Decoder) -> int:
    """Tokens of one forward and backward pass: `wanted`, or where that is 0 what the device likes.

    On a processor activations should stay in its cache (at 5M parameters 1,200 tokens at a time
    cost a fifth less than 4,900), on a GPU there should be many.
    """
    if wanted > 0:
        return wanted
    if model.device.type != "cpu":
        return 32_768
    return max(256, 400_000 // model.config.hidden_size)


@dataclass
class Trainer:
    """A model, its optimiser and where they stand; `state` is any JSON a stage wants kept.

    With `minutes` above 0 it ends at `steps` or after so much of `watch`, whichever comes first,
    and the rate falls with the nearer of the two ends.
    The newest checkpoint of at most `spare` steps outlives those that `keep_checkpoints` keeps.

    `inputs` names the data or environment by content. Raises UserError where a checkpoint of the
    stage was made from others: half of the steps on each would be nobody's result.
    Checkpoints of adapters lack the weights below them: those of `source` must be the same again.
    """

    ctx: StageContext
    model: Decoder
    tokenizer: Tokenizer
    optim: OptimConfig
    steps: int
    save_every: int
    inputs: str = ""
    source: Path | None = None
    minutes: float = 0.0
    watch: Stopwatch = field(default_factory=Stopwatch)

    def __post_init__(self) -> None:
        sizes = sum(p.numel() for p in self.model.parameters())
        if self.model.device.type == "cuda" and sizes >= COMPILED:
            self.model.compile_blocks()
        self.optimizer = make_optimizer(self.model, self.optim)
        self.lanes = Lanes(self.model, self.ctx.machine.threads)
        if self.model.device.type == "cpu":
            keep_freed_memory()
        self.checkpoints = Checkpoints(
            self.ctx.dir / "checkpoints", self.ctx.keep_checkpoints, self.ctx.progress.note
        )
        self.journal = Journal(self.ctx.dir / "metrics.jsonl", "metrics")
        self.ladder = Ladder(
            self.model, lambda line: self.ctx.progress.note(f"{self.ctx.id}: {line}")
        )
        self.step, self.tokens = 0, 0
        self.state: dict[str, Any] = {}
        self.extra: dict[str, torch.Tensor] = {}
        self.spare: int | None = None
        if lora.adapters(self.model):
            self.inputs += f", base {weights_hash(self._base())[:16]}"
        found = self.checkpoints.latest()
        if found is not None:
            path, record = found
            began = record["state"].get("inputs", self.inputs)
            if began != self.inputs:
                raise UserError(
                    f"data of stage {self.ctx.id} changed since it began "
                    f"({began} then, {self.inputs} now)",
                    "choose another --dir or restore it",
                )
            self.checkpoints.restore(path, self.model, self.optimizer)
            self.extra = self.checkpoints.extra(path)
            self.step, self.state = record["step"], record["state"]["stage"]
            self.ladder.load_state_dict(record["state"].get("memory", {}))
            self.tokens = record["state"]["tokens"]
            self.watch = Stopwatch(record["state"]["cpu"], record["state"]["wall"])
            self.ctx.progress.note(f"{self.ctx.id}: going on from step {self.step}")

    def _base(self) -> Path:
        assert self.source is not None, "adapters belong to a model on disk"
        return model_directory(self.source)

    @property
    def place(self) -> float:
        """How many of its steps the stage has come to, or the time, where that is further on."""
        spent = self.watch.wall / (60 * self.minutes) if self.minutes else 0.0
        return max(self.step, spent * self.steps)

    def save(self) -> None:
        """A checkpoint of everything the next step depends on.

        Raises StageError where a weight is not finite: it must not displace a good checkpoint.
        """
        for name, weight in self.model.named_parameters():
            if weight.requires_grad and not bool(weight.isfinite().all()):
                raise self.not_finite(f"{name} is not finite after step {self.step}")
        record = {
            "stage": self.state,
            "memory": self.ladder.state_dict(),
            "inputs": self.inputs,
            "tokens": self.tokens,
            "cpu": self.watch.cpu,
            "wall": self.watch.wall,
        }
        self.checkpoints.save(
            self.step, self.model, self.tokenizer, self.optimizer, record, self.extra, self.spare
        )

    def micro_tokens(self, wanted: int) -> int:
        """Tokens of one forward and backward pass; fewer than asked for where memory ended.

        What is asked for is shared by the lanes, which are at work at the same time.
        """
        budget = micro_budget(wanted // self.lanes.count if wanted > 0 else 0, self.model)
        return max(1, budget // self.ladder.divisor)

    def cut(
        self, rows: np.ndarray[Any, Any], length: int, wanted: int
    ) -> list[np.ndarray[Any, Any]]:
        """Numbers of rows of `length` tokens, in even parts of at most `micro_tokens(wanted)`."""
        most = max(1, self.micro_tokens(wanted) // length)
        parts = min(len(rows), self.lanes.even(-(-len(rows) // most)))
        return np.array_split(rows, parts) if parts else []

    def fit(self, work: Callable[[], Result]) -> Result:
        """What `work` returns: gradients left in the model, whatever memory that takes to give up.

        It must leave nothing else behind where it fails, since it is then run again.
        """
        return self.ladder.fit(work, lambda: self.optimizer.zero_grad(set_to_none=True))

    def not_finite(self, what: str) -> StageError:
        """The error to raise for a loss, gradient or weight that is not finite."""
        fix = f"lower {self.ctx.id}.optim.lr"
        return StageError(f"{self.ctx.id}: {what}; the last good checkpoint is kept; {fix}")

    def run(
        self,
        backward: LossFn,
        shown: str,
        after: Callable[[int], dict[str, float] | None] = lambda step: None,
        again: bool = True,
    ) -> None:
        """Train to `steps`. `after(finished steps)` may add figures, or raise StopTraining.

        With `again`, `backward` is run anew in less memory where it found too little.

        Where `backward` raises it, nothing is learned from that step; its figures are recorded.
        Raises StageError when the loss or the gradient is not finite; the last checkpoint is kept;
        UserError where the time was over before it began.
        """
        if self.step == 0 and self.place >= self.steps:
            what = f"{self.ctx.id}: {self.minutes:g} minutes were over before its first step"
            raise UserError(what, "give it more minutes, or less text")
        stopped = bool(self.state.get("stopped"))
        ended = stopped or self.place >= self.steps
        while not ended:
            try:
                figures = self.fit(partial(backward, self.step)) if again else backward(self.step)
            except StopTraining as stop:
                # No checkpoint: a resumed stage repeats the steps since the last and stops again.
                self.journal.append({"step": self.step + 1, "cpu": self.watch.cpu, **stop.figures})
                break
            place = self.step if self.step < self.optim.warmup else self.place
            lr = learning_rate(self.optim, place, self.steps)
            norm = update(self.model, self.optimizer, self.optim, lr)
            if not math.isfinite(figures[shown]) or not math.isfinite(norm):
                found = f"{shown} is {figures[shown]:.4g}, the gradient norm {norm:.4g}"
                raise self.not_finite(f"{found} at step {self.step + 1}")
            self.step += 1
            tokens = int(figures.get("tokens", 0))
            self.tokens += tokens
            figures |= {"lr": lr, "grad_norm": norm}
            try:
                figures |= after(self.step) or {}
            except StopTraining as stop:
                figures |= stop.figures
                self.state["stopped"] = stopped = True
            self.journal.append({"step": self.step, "cpu": self.watch.cpu, **figures})
            place = self.place
            ended = stopped or place >= self.steps
            expected, seen = math.ceil(self.step * self.steps / place), {shown: figures[shown]}
            self.ctx.progress.step(self.ctx.id, self.step, expected, seen, tokens)
            if self.step % self.save_every == 0 or ended:
                self.save()
        crash_point("stage.trained")

    def rewind(self, most: int, start: Path) -> int:
        """Take the weights of the newest checkpoint of at most `most` steps, else those of `start`.

        Returns how many steps they have seen.
        """
        found = self.checkpoints.latest(most)
        if found is not None:
            self.checkpoints.load(found[0], self.model)
            return int(found[1]["step"])
        if lora.adapters(self.model):
            lora.reset(self.model)
        else:
            self.model.load_state_dict(load_model(start)[0].state_dict())
        return 0

    def finish(self) -> dict[str, Any]:
        """Put the final model in place; the figures every stage reports.

        Adapters are written to `adapter/` in peft's format and merged into the model.
        """
        learned = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if lora.adapters(self.model):
            with NewDirectory(self.ctx.dir / "adapter", "adapter") as aside:
                lora.save_adapter(self.model, aside, str(self._base()))
            lora.merge(self.model)
        save_model(self.model, self.tokenizer, self.ctx.dir / "model")
        return {
            "steps": self.step,
            "tokens": self.tokens,
            "cpu_seconds": round(self.watch.cpu, 1),
            "wall_seconds": round(self.watch.wall, 1),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "learned_parameters": learned,
        }


class StopTraining(Exception):
    """Raised to end training early: a held-out score stopped rising, an alarm was raised."""

    def __init__(self, figures: dict[str, float]) -> None:
        super().__init__("stop")
        self.figures = figures
