"""The model a stage starts from: whose weights, on which device, with adapters or without.

`source = source_of(ctx, config.init, "sft")`; `model, tokenizer = starting_model(ctx, source)`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from puna.core.errors import UserError
from puna.core.stage import StageContext
from puna.evals.evaluate import place_on
from puna.models.decoder import Decoder
from puna.models.lora import LoraConfig, attach
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import load_model


def source_of(ctx: StageContext, init: Path | None, example: str) -> Path:
    """`init`, or else the parent's directory. Raises UserError where there is neither."""
    source = init or ctx.parent
    if source is None:
        fix = f'add from = ["{example}"] or init = "DIR"'
        raise UserError(f"{ctx.id}: nothing to start from", fix)
    return source


def starting_model(
    ctx: StageContext, source: Path, lora: LoraConfig | None = None, chat: bool = True
) -> tuple[Decoder, Tokenizer]:
    """The model of `source`, to be trained where the run computes, with fresh adapters if `lora`.

    Weights that learn are fp32. Those that adapters leave alone are in the run's precision, in
    which they are used anyway. Raises UserError where a file is missing or broken, and where the
    stage is to `chat` and the vocabulary has no format for that.
    """
    computed: torch.dtype = getattr(torch, ctx.machine.dtype)
    model, tokenizer = load_model(source, torch.float32 if lora is None else computed, chat)
    place_on(model, ctx.machine).train()
    if lora is not None:
        attach(model, lora, ctx.seed)
    return model, tokenizer
