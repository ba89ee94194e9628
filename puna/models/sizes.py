"""One dial for a model's shape: `preset("nano", **shape(12))` is 12 layers of width 768.

What the dial is: depth, with everything else in proportion. A preset lends what has no size, such
as the family, which layers have experts, and whether q and k are normalised.
"""

from __future__ import annotations

from typing import Any

from puna.core.errors import UserError
from puna.models.presets import preset

LARGEST = 32
HEAD_DIM = 64


def check_size(size: object) -> int:
    """A whole number from 1 to 32. Raises UserError for anything else."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST:
        raise UserError(f"model.size is {size!r}", f"give a whole number from 1 to {LARGEST}")
    return size


def row_length(size: int) -> int:
    """Tokens of a training row: the width rounded up to a power of two, from 256 to 2,048."""
    return 1 << (max(256, 64 * size) - 1).bit_length()


def vocab_size(size: int) -> int:
    """A power of two of at least 512 tokens a layer, so that ends stay small beside layers."""
    return 1 << (512 * size - 1).bit_length()


def shape(size: int, base: str = "nano", row: int = 0) -> dict[str, Any]:
    """What differs from preset `base` in a model of `size` layers trained on rows of `row` tokens.

    Width is 64 a layer (Kaplan et al. 2020, arXiv 2001.08361: a ratio of about 100 is best, and
    from 30 to 300 costs little). The feed-forward is 8/3 of the width (Shazeer 2020, arXiv
    2002.05202), rounded up; a routed and the shared expert are half of it each, so that a layer
    with experts multiplies as much as one without (as in Llama 4 Maverick). Choices: heads of 64,
    two to a key head; 4, 8 and 16 experts from sizes 1, 8 and 16 on; chunks of half a row, whole
    rows where no layer sees further; positions for four rows. Every width is a multiple of 64.
    """
    start, row = preset(base), row or row_length(size)
    keys, half = -(-size // 2), 64 * -(-4 * size // 3)
    out: dict[str, Any] = {
        "hidden_size": 64 * size,
        "num_layers": size,
        "num_heads": 2 * keys,
        "num_kv_heads": keys,
        "head_dim": HEAD_DIM,
        "intermediate_size": 2 * half,
        "max_positions": 4 * row,
    }
    if start.num_experts:
        out |= {"num_experts": 4 if size < 8 else 8 if size < 16 else 16, "expert_size": half}
    if start.attention_chunk:
        far = start.nope_every and size >= start.nope_every
        out["attention_chunk"] = max(1, row // 2) if far else row
    return out
