"""The dpo stage: of two answers to one prompt the chosen one becomes likelier than the rejected.

`kind = "dpo"`, `from = ["rl"]`, with `data = "pairs.jsonl"` or pairs of the parent's own episodes
in `env`. Legend: B rows, T positions, M learnt tokens, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.core.files import sha256_file, sha256_json
from puna.core.runs import weight_files
from puna.core.stage import StageContext, StageError, Stopwatch
from puna.engine.policy import SamplingParams
from puna.gym.environment import Environment
from puna.gym.loop import Job, identity
from puna.gym.registry import load_environment
from puna.models.decoder import Decoder
from puna.models.lora import LoraConfig, without
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import model_directory
from puna.train.data import env_settings, train_tasks
from puna.train.held_out import HeldOut, Watch
from puna.train.lanes import even_budget
from puna.train.loop import Trainer, at_least_one, epoch_rows
from puna.train.loss import preference_loss, token_logprobs
from puna.train.optim import OptimConfig, require
from puna.train.pairs import Pair, PairBatch, cut_pairs, pair_batch
from puna.train.preferences import (
    Played,
    load_played,
    play_pairs,
    read_preferences,
    save_played,
    tokenise,
)
from puna.train.start import source_of, starting_model

_FORMATTING = ("begin_of_text", "header_start", "header_end", "eot", "eom", "end_of_text")


@dataclass(frozen=True)
class Config:
    """`data` is a file of preferences; else the parent plays `prompts` train tasks of `env`.

    A task played `samples` times gives a pair where an episode succeeded and another failed. A
    step sees `batch_pairs` pairs; `steps` 0 is once through all. Pairs with a side longer than
    `row_length` tokens are left out. `eval_every`, `eval_tasks` and `patience` are those of sft.
    """

    data: Path | None = None
    env: str | Mapping[str, Any] | None = None
    prompts: int = 256
    samples: int = 8
    temperature: float = 1.0
    max_tokens: int = 32
    init: Path | None = None
    lora: LoraConfig | None = None
    steps: int = 0
    batch_pairs: int = 16
    row_length: int = 1024
    beta: float = 0.1
    nll: float = 0.2
    # A tenth of sft's rate: a light last stage should not undo what came before.
    optim: OptimConfig = OptimConfig(lr=5e-5, warmup=5, weight_decay=0.0)
    micro_tokens: int = 0
    eval_every: int = 0
    eval_tasks: int = 200
    patience: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that leaves nothing to learn."""
        at_least_one(self, "prompts", "max_tokens", "batch_pairs", "row_length")
        at_least_one(self, "eval_tasks", "save_every")
        require(self.samples >= 2, self, "samples", "at least 2")
        require(self.steps >= 0, self, "steps", "0 or more")
        require(self.temperature > 0, self, "temperature", "above 0")
        require(self.beta > 0, self, "beta", "above 0")
        require(self.nll >= 0, self, "nll", "0 or more")


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Train the parent's model (or `init`) on pairs, those weights being the reference.

    Raises UserError for missing or broken data, StageError where episodes gave no pair.
    """
    source = source_of(ctx, config.init, "rl")
    env = None
    if config.env is not None:
        env = load_environment(*env_settings(config.env), ctx.seed)
    model, tokenizer = starting_model(ctx, source, config.lora)
    # Under adapters the first weights are still there.
    reference = model if config.lora else starting_model(ctx, source)[0].requires_grad_(False)
    played = _pairs(ctx, config, env, reference.eval(), tokenizer, source)
    pairs = [p for p in played.pairs if p.longest <= config.row_length + 1]
    if not pairs:
        what = f"{ctx.id}: no pair fits row_length {config.row_length}"
        raise UserError(what, f"raise {ctx.id}.row_length")
    data_hash = sha256_json([p.to_json() for p in pairs])
    inputs = f"pairs {data_hash[:16]}"
    if env is not None:
        inputs += f", environment {identity(env)['hash']}"
    steps = config.steps or -(-len(pairs) // config.batch_pairs)
    pace = (config.optim, steps, config.save_every)
    watch = Stopwatch(played.cpu, played.wall)  # a resumed trainer has it already
    trainer = Trainer(ctx, model, tokenizer, *pace, inputs, source, watch=watch)
    loop = _Loop(ctx, config, env, trainer, reference, pairs)
    trainer.run(loop.backward, "loss", loop.after)
    scored = loop.finish()
    return trainer.finish() | {
        "pairs": len(pairs),
        "pairs_left_out": len(played.pairs) - len(pairs),
        "tasks": played.tasks,
        "tasks_without_pair": played.tasks_without,
        "not_scored": round(played.not_scored, 4),
        "epochs": round(trainer.step * config.batch_pairs / len(pairs), 2),
        "data_hash": data_hash,
        **scored,
    }


def _pairs(
    ctx: StageContext,
    config: Config,
    env: Environment | None,
    reference: Decoder,
    tokenizer: Tokenizer,
    source: Path,
) -> Played:
    """The pairs of the file (no task is played then), or those of episodes, saved when played."""
    if config.data is not None:
        rows = read_preferences(config.data)
        return Played([tokenise(tokenizer, row) for row in rows], 0, 0, 0.0)
    if env is None:
        raise UserError(f"{ctx.id}: no data", f"give --set {ctx.id}.data=FILE or {ctx.id}.env=NAME")
    params = SamplingParams(config.max_tokens, config.temperature)
    path, key = ctx.dir / "pairs.json", _key(ctx, config, env, source)
    played = load_played(path, key)
    if played is None:
        tasks = range(train_tasks(env, config.prompts))
        jobs = [Job("train", i, config.samples, ("dpo",)) for i in tasks]
        played = play_pairs(ctx, env, reference, tokenizer, jobs, params)
        save_played(path, key, played)
    without = f"{played.tasks_without} of {played.tasks} tasks of {env.name} gave no pair"
    if not played.pairs:
        why = f": {played.failure}" if played.not_scored else " (none won and lost)"
        fix = f"raise {ctx.id}.prompts, {ctx.id}.samples or {ctx.id}.max_tokens"
        raise StageError(f"{ctx.id}: {without}{why}; {fix}")
    ctx.progress.note(f"{ctx.id}: {len(played.pairs)} pairs; {without}")
    return played


def _key(ctx: StageContext, config: Config, env: Environment, source: Path) -> str:
    """Names all that the episodes are a function of, the sampler's weights among it."""
    files = weight_files(model_directory(source))
    sampling = (config.prompts, config.samples, config.temperature, config.max_tokens)
    weights = [sha256_file(f) for f in files]
    return sha256_json([weights, identity(env), config.env, ctx.seed, sampling])


class _Loop(HeldOut):
    """Batches of pairs, and the held-out score that may end the stage."""

    def __init__(
        self,
        ctx: StageContext,
        config: Config,
        env: Environment | None,
        trainer: Trainer,
        reference: Decoder,
        pairs: Sequence[Pair],
    ) -> None:
        every, tasks = config.eval_every, config.eval_tasks
        watch = Watch(every, tasks, config.max_tokens, config.patience)
        super().__init__(ctx, watch, env, trainer)
        self.config, self.reference, self.pairs = config, reference, pairs
        names = [n for n in _FORMATTING if trainer.tokenizer.token(n) is not None]
        self.formatting = torch.tensor([trainer.tokenizer.special(n) for n in names])

    def batch(self, step: int) -> list[Pair]:
        """The pairs of a step."""
        ctx, count = self.ctx, self.config.batch_pairs
        return [self.pairs[i] for i in epoch_rows(ctx.seed, ctx.id, step, count, len(self.pairs))]

    def backward(self, step: int) -> dict[str, float]:
        """Mean loss over the pairs of one batch, gradients left in the model."""
        pairs, model, config = self.batch(step), self.trainer.model, self.config
        names = ("loss", "accuracy", "margin", "chosen_logp", "rejected_logp", "chosen_nll")
        sizes = [(len(p.chosen) + len(p.rejected)) * (p.longest - 1) for p in pairs]
        budget = self.trainer.micro_tokens(config.micro_tokens)
        budget = even_budget(budget, sum(sizes), max(sizes), self.trainer.lanes.even)
        lots = [pair_batch(x, self.formatting, model.device) for x in cut_pairs(pairs, budget)]

        def before(batch: PairBatch) -> Tensor:
            return self._logp(self.reference, batch)[0]

        def learn(given: tuple[PairBatch, Tensor]) -> tuple[Tensor, list[float]]:
            batch, reference_P2 = given
            logp_P2, nll_P = self._logp(model, batch)
            loss, margins_P = preference_loss(
                logp_P2, reference_P2, nll_P, beta=config.beta, nll=config.nll
            )
            chosen, rejected = logp_P2.detach().sum(0).tolist()
            won, nll = float((margins_P > 0).sum()), float(nll_P.detach().sum())
            found = [float(loss.detach()), won, float(margins_P.sum()), chosen, rejected, nll]
            return loss / len(pairs), found

        with without(self.reference):
            references = self.trainer.lanes.score(lots, before)
        found = self.trainer.lanes.backward(list(zip(lots, references, strict=True)), learn)
        means = [sum(values) / len(pairs) for values in zip(*found, strict=True)]
        tokens = sum(len(r.ids) for p in pairs for r in (*p.chosen, *p.rejected))
        return dict(zip(names, means, strict=True)) | {"tokens": tokens}

    @staticmethod
    def _logp(model: Decoder, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Of each pair both sides' log-probability [P, 2]; of its chosen side the NLL a token [P].

        Turn headers and ends are left out of the first (as Llama 3 does: shared by both sides, they
        would be pushed up and down at once), but learnt by the second, which keeps the format.
        """
        hidden = model(batch.ids_BT)
        logp_M = token_logprobs(model.logits(hidden[batch.learn_BT]), batch.targets_M)
        content = torch.split(logp_M * batch.content_M, batch.sizes)
        sides = torch.stack([side.sum() for side in content]).view(-1, 2)
        chosen = torch.split(logp_M, batch.sizes)[::2]
        return sides, torch.stack([-side.mean() for side in chosen])
