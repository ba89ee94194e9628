"""One dial for a pretrain stage: its model's `size` says shape, vocabulary, batch, rate and steps.

`with_size({"model": {"size": 12}})` is the table with all of them; what it says already stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puna.models.config import ModelConfig
from puna.models.presets import preset
from puna.models.sizes import check_size, row_length, shape, vocab_size

TOKENS_A_PARAMETER = 20


@dataclass(frozen=True)
class Pace:
    """How a model of so many active `parameters` is trained.

    20 tokens a parameter (Hoffmann et al. 2022, arXiv 2203.15556); batch and peak rate by the power
    laws that DeepSeek LLM fitted to compute (arXiv 2401.02954, section 3.1: 0.2920 C^0.3271 tokens,
    0.3118 C^-0.1250). They were fitted for AdamW from 1e17 to 2e19 operations, beyond which this
    extrapolates, and count attention in and the model's ends out, where this takes 6 operations a
    parameter and token. With 20 tokens the rate falls as the width to the power of 3/4; by muP it
    would be 1 (arXiv 2203.03466).
    """

    parameters: int

    @property
    def tokens(self) -> int:
        """Of the whole training."""
        return TOKENS_A_PARAMETER * self.parameters

    @property
    def compute(self) -> float:
        """Floating-point operations of the whole training."""
        return 6.0 * self.parameters * self.tokens

    @property
    def lr(self) -> float:
        """The peak rate, two digits of it."""
        return float(f"{0.3118 * self.compute**-0.1250:.1e}")

    def batch_tokens(self, row: int) -> int:
        """Tokens of a step, in whole rows of `row`."""
        tokens: float = 0.2920 * self.compute**0.3271
        return row * max(1, round(tokens / row))


def with_size(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a pretrain stage and what its model's `size` implies.

    Without a size that is the table as it is. Warming up for a fiftieth of the steps is a choice.
    Raises UserError for a size that is none, and for values of `model` that do not fit together.
    """
    given = table.get("model")
    if not isinstance(given, Mapping) or "size" not in given:
        return table
    size, base = check_size(given["size"]), str(given.get("preset", "nano"))
    row = _count(table, "row_length", row_length(size))
    vocab = _count(table, "vocab", vocab_size(size))
    model = {"preset": base, **shape(size, base, row), **given}
    pace = Pace(_config(model, vocab).active_parameters())
    batch = _count(table, "batch_tokens", pace.batch_tokens(row))
    steps = max(1, pace.tokens // batch)
    implied = {"row_length": row, "vocab": vocab, "batch_tokens": batch, "steps": steps}
    optim = table.get("optim", {})
    if isinstance(optim, Mapping):
        optim = {"lr": pace.lr, "warmup": max(10, steps // 50), **optim}
    return {**implied, **table, "model": model, "optim": optim}


def _config(model: Mapping[str, Any], vocab: int) -> ModelConfig:
    fields = {k: v for k, v in model.items() if k not in ("preset", "size")}
    ids: dict[str, Any] = {"bos_id": None, "eos_ids": (), "pad_id": None}  # the tokenizer has them
    return preset(model["preset"], **(fields | ids | {"vocab_size": vocab}))


def _count(table: Mapping[str, Any], name: str, by_size: int) -> int:
    """What the table says where that is a count; anything else is refused when it is read."""
    given = table.get(name, by_size)
    return int(given) if isinstance(given, int) and given > 0 else by_size


def chosen(size: int, model: ModelConfig, pace: tuple[int, int], lr: float) -> str:
    """What a size became, in one line; `pace` are the steps and the tokens of each."""
    active, whole = model.active_parameters(), model.num_parameters()
    of_them = "" if active == whole else f" ({active:,} of them active)"
    return (
        f"size {size}: {model.num_layers} layers of width {model.hidden_size}, {model.num_heads} "
        f"heads, vocabulary {model.vocab_size}, {whole:,} parameters{of_them}; at most {pace[0]:,} "
        f"steps of {pace[1]:,} tokens, {pace[0] * pace[1] / active:.3g} a parameter, rate {lr:.2g}"
    )
