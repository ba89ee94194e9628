"""The midtrain stage: pretraining goes on with longer rows and a smaller rate that falls to zero.

`kind = "midtrain"`, `from = ["pretrain"]`, `row_length = 512`: bits per byte on held-out files at
the short and at the long context, before and after.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from puna.core.errors import UserError
from puna.core.stage import StageContext
from puna.evals.bits import Bits, bits_of, bits_per_byte, compared, document, interval, told
from puna.models.config import RopeScaling
from puna.models.decoder import Decoder
from puna.text.corpus import Corpus, TextFile, read_corpus
from puna.text.packing import Packed, pack_whole
from puna.text.tokenizer import Tokenizer
from puna.train.loop import Trainer, epoch_span
from puna.train.optim import OptimConfig, require
from puna.train.pretrain import TextConfig, TextLoop
from puna.train.start import source_of, starting_model

_TEXT = ("data", "max_bytes", "held_out")
# What a text stage's parent is taken to have had where nothing is known of it.
_UNKNOWN: Mapping[str, Any] = {"data": None, "max_bytes": 0, "held_out": 2.0}


@dataclass(frozen=True)
class Config(TextConfig):
    """The parent's text again, in rows of `row_length`; a document that fits a row stays whole.

    `data`, `max_bytes` and `held_out` are the parent's where they are not given, so that what it
    held out stays unseen. The model afterwards states a context of at least `context` tokens (0:
    `row_length`), and `rope_theta` (0: as it was) or `rope_scaling` (none: as it was) slows its
    rotary frequencies, as Llama 3 and 3.1 do for longer contexts; a Llama 4 needs neither, its far
    layers have no positions. `long_share` of the rows, where it is above 0, are filled by a single
    document, whatever their share of the text. `short_context` is measured beside `row_length` (0:
    the parent's `row_length`, or else a quarter of this one).
    """

    data: Path | None = None
    max_bytes: int | None = None
    held_out: float | None = None
    steps: int = 100
    row_length: int = 512
    context: int = 0
    short_context: int = 0
    rope_theta: float = 0.0
    rope_scaling: RopeScaling | None = None
    long_share: float = 0.0
    optim: OptimConfig = OptimConfig(lr=5e-4, warmup=10, schedule="linear", final=0.0)
    sample_every: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be trained on."""
        super().__post_init__()
        require(self.row_length > 1, self, "row_length", "at least 2")
        require(self.short_context >= 0, self, "short_context", "0 or more")
        require(self.rope_theta >= 0, self, "rope_theta", "0 or more")
        require(0 <= self.long_share <= 1, self, "long_share", "0 to 1")
        fits = self.context == 0 or self.context >= self.row_length
        require(fits, self, "context", f"0, or at least row_length = {self.row_length}")
        share = self.held_out is None or 0 < self.held_out <= 50
        require(share, self, "held_out", "above 0, at most 50 per cent")


@dataclass(frozen=True)
class Origin:
    """The text stage before this one: what it read, that text's digest, its rows. See `origin`."""

    settings: Mapping[str, Any]
    digest: str = ""
    row_length: int = 0


def origin(directory: Path) -> Origin | None:
    """The nearest text stage at or above a stage's (or its model's) directory, None if none is."""
    stages = (directory, directory.parent)
    path = next((d / "stage.json" for d in stages if (d / "stage.json").exists()), None)
    if path is None:
        return None
    try:
        record = json.loads(path.read_text())
        config, result = record["config"], record["result"]
        if record["kind"] in ("pretrain", "midtrain"):
            data = result["data"]
            read = data["settings"] if record["kind"] == "midtrain" else config
            return Origin({k: read[k] for k in _TEXT}, data["digest"], config["row_length"])
        parents = [path.parent.parent / p for p in record["parents"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = f"give data, max_bytes and held_out, and remove {path}"
        raise UserError(f"{path} is broken: {error!r}", fix) from error
    return origin(parents[0]) if parents else None


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Go on from the parent (or `init`) with its tokenizer. Raises UserError where there is none.

    The result's `bits_per_byte.contexts` has, for each context, bits per byte with the parent's
    weights, with the new ones, and their difference paired by file (below zero is a gain). More
    training helps at any context, so `longer` is what the long one adds to the short one in the
    end: with the new weights, bits per byte at the long context minus those at the short one.
    """
    source = source_of(ctx, config.init, "pretrain")
    before = origin(source)
    settings = _text_settings(config, before)
    corpus = _corpus(settings)
    _note_corpus(ctx, corpus, before)
    parent, tokenizer = starting_model(ctx, source, chat=False)
    context = config.context or config.row_length
    model = extended(parent, context, config.rope_theta, config.rope_scaling)
    model.compute_dtype, model.decode_weights = parent.compute_dtype, parent.decode_weights
    train = _pack([document(tokenizer, t.text) for t in corpus.train], config.row_length)
    inputs = f"text {corpus.digest[:16]}"
    trainer = Trainer(ctx, model, tokenizer, config.optim, config.steps, config.save_every, inputs)
    loop = _Mixture(ctx, config, corpus, trainer, train)
    contexts = _contexts(config, before)
    # Kept with the checkpoints: there the model has the parent's weights no longer.
    if "before" not in trainer.state:
        found = _measure(parent, tokenizer, loop.held_out, contexts)
        trainer.state["before"] = [[list(pair) for pair in bits.by_file] for bits in found]
    del parent
    trainer.run(loop.backward, "loss", loop.after)
    old = [bits_of(by_file) for by_file in trainer.state["before"]]
    new = _measure(model, tokenizer, loop.held_out, contexts)
    rows = [compared(f"context {c}", *two) for c, *two in zip(contexts, old, new, strict=True)]
    both = " instead of ".join(map(str, reversed(contexts)))
    longer = [compared(f"context {both}", *new)] if len(new) == 2 else []
    for row in [*rows, *longer]:
        ctx.progress.note(f"{ctx.id}: {told(row)}")
    seen = int((train.documents_NT >= 0).sum())
    lengths = [len(document(tokenizer, f.text)) for f in loop.held_out]
    return trainer.finish() | {
        "bits_per_byte": {
            "model": new[-1].total,
            **dict(zip(("low", "high"), interval(new[-1]), strict=True)),
            "held_out_bytes": new[-1].bytes,
            "longer_than_short": sum(n > contexts[0] for n in lengths),
            "contexts": rows,
            "longer": longer,
        },
        "max_positions": model.config.max_positions,
        "rope_theta": model.config.rope_theta,
        "data": {
            "files": len(corpus.train),
            "bytes": sum(f.bytes for f in corpus.train),
            "held_out_files": len(corpus.held_out),
            "digest": corpus.digest,
            "settings": settings,
            "held_out_is_unseen": before is not None and before.digest == corpus.digest,
        },
        "epochs": round(trainer.tokens / max(1, seen), 2),
    }


class _Mixture(TextLoop):
    """Batches of which `long_share` are rows that one document fills."""

    def __init__(
        self, ctx: StageContext, config: Config, corpus: Corpus, trainer: Trainer, packed: Packed
    ) -> None:
        super().__init__(ctx, config, corpus, trainer, packed)
        documents = packed.documents_NT
        filled = (documents == documents[:, :1]).all(1)
        self.share, self.long = config.long_share, np.flatnonzero(filled)
        self.others = np.flatnonzero(~filled)
        if self.share and not len(self.long):
            what = f"{ctx.id}: no document fills a row of {config.row_length} tokens"
            raise UserError(what, "give longer documents, a smaller row_length, or long_share = 0")
        if 0 < self.share < 1 and not len(self.others):
            self.share = 1.0

    def batch(self, step: int) -> NDArray[np.int64]:
        """Row numbers of a step, the long ones first."""
        if not self.share:
            return super().batch(step)
        # Counted over all steps, so that batches of one row keep the share too.
        start, stop = step * self.rows, (step + 1) * self.rows
        before, after = math.floor(start * self.share), math.floor(stop * self.share)
        seed, name = self.ctx.seed, self.ctx.id
        long = epoch_span(seed, f"{name} long", before, after, len(self.long))
        others = epoch_span(seed, name, start - before, stop - after, len(self.others))
        return np.concatenate([self.long[long], self.others[others]])


def extended(
    model: Decoder, context: int, rope_theta: float = 0.0, scaling: RopeScaling | None = None
) -> Decoder:
    """A decoder of the same weights (the very tensors) for at least `context` positions.

    `rope_theta` 0 and `scaling` None keep what it has. Positions in use are all that costs: no
    table is stored.
    """
    config = replace(
        model.config,
        max_positions=max(context, model.config.max_positions),
        rope_theta=rope_theta or model.config.rope_theta,
        rope_scaling=scaling or model.config.rope_scaling,
    )
    with torch.device("meta"):
        longer = Decoder(config)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    longer.load_state_dict(weights, assign=True)
    return longer.train(model.training)


def _text_settings(config: Config, before: Origin | None) -> dict[str, Any]:
    known = before.settings if before else _UNKNOWN
    given = {k: getattr(config, k) for k in _TEXT}
    found = {k: known[k] if given[k] is None else given[k] for k in _TEXT}
    return found | {"data": None if found["data"] is None else str(found["data"])}


def _corpus(settings: Mapping[str, Any]) -> Corpus:
    path = None if settings["data"] is None else Path(settings["data"])
    share, size = settings["held_out"], settings["max_bytes"] or None
    return read_corpus(path, held_out_percent=share, max_bytes=size)


def _note_corpus(ctx: StageContext, corpus: Corpus, before: Origin | None) -> None:
    ctx.progress.note(
        f"{ctx.id}: {len(corpus.train)} files to train on, {len(corpus.held_out)} held out"
    )
    if before is None or before.digest != corpus.digest:
        why = "its text is unknown" if before is None else "it had other text"
        ctx.progress.note(f"{ctx.id}: the parent may have seen what is held out here, {why}")


def _contexts(config: Config, before: Origin | None) -> list[int]:
    """The contexts to measure at, short before long; one where they are the same."""
    parents = before.row_length if before else 0
    short = config.short_context or parents or max(2, config.row_length // 4)
    return sorted({short, config.row_length})


def _pack(documents: Sequence[Sequence[int]], row_length: int) -> Packed:
    """Rows in which every document that fits stands whole; longer ones fill rows piece by piece.

    A piece begins with the last token of the one before, so that each token but a document's first
    is a target once.
    """
    step = row_length - 1
    pieces = [d[i : i + row_length] for d in documents for i in range(0, max(1, len(d) - 1), step)]
    return pack_whole(pieces, row_length)


def _measure(
    model: Decoder, tokenizer: Tokenizer, files: Sequence[TextFile], contexts: Sequence[int]
) -> list[Bits]:
    return [bits_per_byte(model, tokenizer, files, context) for context in contexts]
