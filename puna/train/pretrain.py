"""The pretrain stage: a tokenizer and a model from raw text, judged in bits per byte.

`data` is a directory or file of text; without it, this machine's Python standard library.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puna.core.files import NewDirectory
from puna.core.journal import Journal
from puna.core.rng import derive
from puna.core.stage import StageContext, Stopwatch
from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.evals.bits import baselines, bits_per_byte, document, interval
from puna.evals.evaluate import place_on
from puna.gym.registry import load_environment
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.presets import build, preset
from puna.text.corpus import Corpus, TextFile, read_corpus
from puna.text.packing import IGNORE, Packed, pack
from puna.text.tiling import Tiling
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import load_model
from puna.train.data import conversations, demonstrations, env_settings
from puna.train.loop import Trainer, at_least_one, epoch_rows, packed_inputs
from puna.train.loss import next_token_loss
from puna.train.optim import OptimConfig, require
from puna.train.sized import chosen, with_size


@dataclass(frozen=True)
class TextConfig:
    """What all stages have that learn from raw text."""

    init: Path | None = None
    steps: int = 300
    batch_tokens: int = 8192
    row_length: int = 256
    optim: OptimConfig = OptimConfig(lr=2e-3, warmup=30)
    micro_tokens: int = 0
    balance: float = 1e-3
    eval_every: int = 0
    eval_bytes: int = 400_000
    sample_every: int = 100
    prompts: Sequence[str] = field(default_factory=lambda: ("def ", "import ", "class "))
    save_every: int = 100

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 1."""
        at_least_one(self, "steps", "batch_tokens", "row_length")
        at_least_one(self, "eval_bytes", "save_every")


@dataclass(frozen=True)
class Config(TextConfig):
    """`model` is a preset's name or a table with `preset` and fields to replace, or a `size`.

    A step sees `batch_tokens` tokens in rows of `row_length`; `max_bytes` cuts the corpus (0: all).
    Where `minutes` is above 0 the stage learns for that long at most, reading and the vocabulary
    counted in, and the rate falls with the time; what it ends at then depends on the clock.
    `held_out` per cent of the files are never trained on. `vocab_envs` are environments whose
    demonstrations the vocabulary (not the model) learns from too, so that a later stage's turns
    and tool calls take few tokens. `digits` is the most digits of one token, 1 to 3. `balance` is
    the rate at which router biases move towards an even load of experts (0: not at all).
    `initial` is which of the seed's first weights a new model has.
    """

    data: Path | None = None
    max_bytes: int = 0
    held_out: float = 2.0
    vocab: int = 1024
    vocab_envs: Sequence[str | Mapping[str, Any]] = ()
    digits: int = 1
    model: str | Mapping[str, Any] = "nano"
    initial: int = 0
    with_baselines: bool = True
    minutes: float = 0.0

    fill = staticmethod(with_size)

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 1, or nothing held out."""
        super().__post_init__()
        require(0 < self.held_out <= 50, self, "held_out", "above 0, at most 50 per cent")
        require(self.digits in (1, 2, 3), self, "digits", "1, 2 or 3")
        require(self.initial >= 0, self, "initial", "0 or more")
        require(0 <= self.minutes < math.inf, self, "minutes", "0 or more")


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Train from scratch, or go on from `init` or a parent with its tokenizer.

    Raises UserError for a corpus that is missing, empty, binary or too small.
    """
    watch = Stopwatch()
    corpus = read_corpus(
        config.data, held_out_percent=config.held_out, max_bytes=config.max_bytes or None
    )
    ctx.progress.note(
        f"{ctx.id}: {len(corpus.train)} files, {_size(corpus.train) / 1e6:.1f} MB to train on, "
        f"{len(corpus.held_out)} files, {_size(corpus.held_out) / 1e6:.2f} MB held out"
    )
    source = config.init or ctx.parent
    if source is not None:
        model, tokenizer = load_model(source)
    else:
        tokenizer = _tokenizer(ctx, config, corpus)
        model = _fresh_model(ctx, config, tokenizer)
    place_on(model, ctx.machine).train()
    train = pack([document(tokenizer, t.text) for t in corpus.train], config.row_length)
    inputs = f"text {corpus.digest[:16]}"
    pace = config.optim, config.steps, config.save_every
    trainer = Trainer(ctx, model, tokenizer, *pace, inputs, minutes=config.minutes, watch=watch)
    loop = TextLoop(ctx, config, corpus, trainer, train)
    trainer.run(loop.backward, "loss", loop.after)
    bits = bits_per_byte(model, tokenizer, loop.held_out, config.row_length)
    low, high = interval(bits)
    figures = {"model": bits.total, "low": low, "high": high, "held_out_bytes": bits.bytes}
    if config.with_baselines:
        ctx.progress.note(f"{ctx.id}: measuring xz -9 and 5-gram models on the same files")
        figures |= baselines(corpus.train, loop.held_out, tokenizer)
    return trainer.finish() | {
        "bits_per_byte": figures,
        "data": {
            "files": len(corpus.train),
            "bytes": _size(corpus.train),
            "held_out_files": len(corpus.held_out),
            "digest": corpus.digest,
        },
        "epochs": round(trainer.tokens / max(1, int((train.documents_NT >= 0).sum())), 2),
        "vocabulary": tokenizer.vocab_size,
        "bytes_per_token": round(_size(corpus.train) / int((train.documents_NT >= 0).sum()), 3),
    }


def _tokenizer(ctx: StageContext, config: Config, corpus: Corpus) -> Tokenizer:
    """Trained once a stage; a resumed stage reads it back."""
    directory = ctx.dir / "tokenizer"
    if not directory.exists():
        texts = [t.text for t in corpus.train]
        for given in config.vocab_envs:
            env = load_environment(*env_settings(given), ctx.seed)
            spoken = conversations(demonstrations(env, 1000))
            texts += spoken * math.ceil(sum(map(len, texts)) / max(1, sum(map(len, spoken))))
        trained = Tokenizer.train(texts, config.vocab, config.digits, _tiling(config))
        with NewDirectory(directory, "tokenizer") as aside:
            trained.save(aside)
    tokenizer = Tokenizer.load(directory)
    tokenizer.tiling = _tiling(config)
    return tokenizer


def _shape(config: Config) -> tuple[str, dict[str, Any]]:
    given = {"preset": config.model} if isinstance(config.model, str) else dict(config.model)
    given.pop("size", None)
    return str(given.pop("preset", "nano")), given


def _tiling(config: Config) -> Tiling | None:
    vision = preset(_shape(config)[0]).vision
    return None if vision is None else vision.tiling


def _fresh_model(ctx: StageContext, config: Config, tokenizer: Tokenizer) -> Decoder:
    name, given = _shape(config)
    vision = preset(name).vision
    given |= {
        "vision": vision and replace(vision, patch_id=tokenizer.special("patch")),
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.special("begin_of_text"),
        "eos_ids": (tokenizer.special("end_of_text"), tokenizer.special("eot")),
        "pad_id": tokenizer.special("pad"),
    }
    shape = preset(name, **given)
    if isinstance(config.model, Mapping) and "size" in config.model:
        pace = config.steps, config.batch_tokens
        line = chosen(config.model["size"], shape, pace, config.optim.lr)
        ctx.progress.note(f"{ctx.id}: {line}")
    first = derive(ctx.seed, "initial", config.initial) if config.initial else ctx.seed
    return build(shape, first)


def _size(files: Sequence[TextFile]) -> int:
    return sum(f.bytes for f in files)


class TextLoop:
    """Batches of packed rows, held-out bits per byte and text samples along the way."""

    def __init__(
        self,
        ctx: StageContext,
        config: TextConfig,
        corpus: Corpus,
        trainer: Trainer,
        packed: Packed,
    ) -> None:
        self.ctx, self.config, self.trainer, self.packed = ctx, config, trainer, packed
        self.rows = max(1, config.batch_tokens // config.row_length)
        self.held_out = _first(corpus.held_out, config.eval_bytes)
        self.watched = _first(self.held_out, config.eval_bytes // 4)
        self.samples = Journal(ctx.dir / "samples.jsonl", "samples")

    def batch(self, step: int) -> np.ndarray[Any, Any]:
        """Row numbers of a step."""
        ctx = self.ctx
        return epoch_rows(ctx.seed, ctx.id, step, self.rows, len(self.packed.ids_NT))

    def backward(self, step: int) -> dict[str, float]:
        """Mean next-token loss of one batch, gradients left in the model."""
        chosen, model = self.batch(step), self.trainer.model
        routed = model.config.num_experts > 0
        total = int((self.packed.targets_NT[chosen] != IGNORE).sum())

        def read(
            given: tuple[np.ndarray[Any, Any], bool],
        ) -> tuple[torch.Tensor, tuple[float, torch.Tensor]]:
            part, masked = given
            routes = Routes() if routed else None
            inputs = packed_inputs(self.packed, part, model)[: 3 if masked else 1]
            hidden = model(*inputs, routes=routes)
            want = torch.from_numpy(self.packed.targets_NT[part]).long().to(model.device)
            loss = next_token_loss(model, hidden.flatten(0, 1), want.flatten())
            load = routes.load(model.config.num_experts) if routes else torch.zeros(0)
            return loss / total, (float(loss.detach()), load * (len(part) / len(chosen)))

        losses, loads = zip(*self.trainer.lanes.backward(self._parts(chosen), read), strict=True)
        figures = {"loss": sum(losses) / total, "tokens": total}
        if routed:
            load = torch.stack(loads).sum(0)
            model.balance_experts(load, self.config.balance)
            figures["busiest_expert"] = float(load.max())
        return figures

    def _parts(self, chosen: np.ndarray[Any, Any]) -> list[tuple[np.ndarray[Any, Any], bool]]:
        """Micro-batches, and whether a mask must keep their documents apart.

        Rows of one document need none; a processor attends to them faster by themselves.
        """
        whole = self.packed.whole(chosen) & (self.trainer.model.device.type == "cpu")
        config, cut = self.config, self.trainer.cut
        return [
            (part, masked)
            for rows, masked in ((chosen[whole], False), (chosen[~whole], True))
            for part in cut(rows, config.row_length, config.micro_tokens)
        ]

    def after(self, step: int) -> dict[str, float] | None:
        """Text samples and held-out bits per byte when they are due."""
        config = self.config
        if config.sample_every and (step == 10 or step % config.sample_every == 0):
            self._sample(step)
        if config.eval_every and step % config.eval_every == 0 and step < config.steps:
            model, tokenizer = self.trainer.model, self.trainer.tokenizer
            bits = bits_per_byte(model, tokenizer, self.watched, config.row_length)
            minutes = self.trainer.watch.wall / 60
            self.ctx.progress.note(
                f"{self.ctx.id} step {step}, {minutes:.1f} minutes: {bits.total:.4f} bits per byte"
            )
            return {"bits_per_byte": bits.total, "minutes": round(minutes, 3)}
        return None

    def _sample(self, step: int) -> None:
        model, tokenizer = self.trainer.model, self.trainer.tokenizer
        engine = Engine(model.eval(), tokenizer, self.ctx.seed)
        params = SamplingParams(48, 0.8)
        requests = [
            Request((*tokenizer.opening, *tokenizer.encode(p)), params, ("sample", step, i))
            for i, p in enumerate(self.config.prompts)
        ]
        for prompt, done in zip(self.config.prompts, engine.generate(requests), strict=True):
            text = tokenizer.decode(done.ids)
            self.samples.append({"step": step, "prompt": prompt, "text": text})
            if prompt == self.config.prompts[0]:
                shown = (prompt + text).replace("\n", "\\n")[:90]
                self.ctx.progress.note(f"{self.ctx.id} step {step} writes: {shown}")
        model.train()


def _first(files: Sequence[TextFile], size: int) -> list[TextFile]:
    """Files from the first on until they hold `size` bytes."""
    ends = itertools.accumulate((f.bytes for f in files), initial=0)
    return [f for f, before in zip(files, ends, strict=False) if before < max(1, size)]
