"""Bits per byte of text that was held out, with intervals over files, and what compression needs.

`bits_per_byte(model, tokenizer, files, 512).total`; `compared("512", before, after)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from puna.core.stats import t_quantile
from puna.kernels.cross_entropy import head_plain
from puna.models.decoder import Decoder
from puna.text.baselines import NGram, xz_bits_per_byte
from puna.text.corpus import TextFile
from puna.text.packing import IGNORE
from puna.text.tokenizer import Tokenizer


def document(tokenizer: Tokenizer, text: str) -> list[int]:
    """The token ids of a text with those of its begin and end."""
    return [*tokenizer.opening, *tokenizer.encode(text), tokenizer.special("end_of_text")]


@dataclass(frozen=True)
class Bits:
    """Bits per byte over all files, and per file with its bytes."""

    total: float
    bytes: int
    by_file: tuple[tuple[float, int], ...]


@torch.inference_mode()
def bits_per_byte(
    model: Decoder, tokenizer: Tokenizer, files: Sequence[Any], row_length: int
) -> Bits:
    """-log2 p(text) / bytes over whole files, each token given up to `row_length` before it.

    Rows overlap by half, and only the later half of a row is counted (the first row counts whole),
    so every token but those at a file's beginning has at least half a row of context.
    """
    was_training = model.training
    model.eval()
    found, half = [], row_length // 2
    at_once = max(1, min(32, 8192 // row_length))  # long rows have large masks and many logits
    for file in files:
        ids = document(tokenizer, file.text)
        nats = 0.0
        starts = range(0, max(1, len(ids) - 1 - half), half)
        rows = np.zeros((len(starts), row_length + 1), dtype=np.int64)
        counted = np.zeros((len(starts), row_length), dtype=bool)
        for i, start in enumerate(starts):
            piece = ids[start : start + row_length + 1]
            rows[i, : len(piece)] = piece
            counted[i, (0 if i == 0 else row_length - half) : len(piece) - 1] = True
        for i in range(0, len(rows), at_once):
            block = torch.from_numpy(rows[i : i + at_once]).to(model.device)
            hidden = model(block[:, :-1]).flatten(0, 1)
            want = torch.where(
                torch.from_numpy(counted[i : i + at_once]).to(model.device), block[:, 1:], IGNORE
            )
            nats += float(head_plain(hidden, model.head_weight, want.flatten()))
        found.append((nats / math.log(2), len(file.text.encode())))
    model.train(was_training)
    return bits_of(found)


def interval(bits: Bits) -> tuple[float, float]:
    """95 % interval of the ratio by linearisation over files (ratio estimator)."""
    n = len(bits.by_file)
    if n < 2:
        return bits.total, bits.total
    mean_bytes = bits.bytes / n
    residuals = np.array([(b - bits.total * size) / mean_bytes for b, size in bits.by_file])
    half = t_quantile(0.975, n - 1) * float(residuals.std(ddof=1)) / math.sqrt(n)
    return bits.total - half, bits.total + half


def bits_of(by_file: Sequence[Sequence[float]]) -> Bits:
    """The total of [bits, bytes] per file."""
    size = int(sum(n for _, n in by_file))
    return Bits(sum(b for b, _ in by_file) / size, size, tuple((b, int(n)) for b, n in by_file))


def compared(name: str, before: Bits, after: Bits) -> dict[str, Any]:
    """Bits per byte twice on the same files, and the second minus the first paired by file.

    The 95 % interval is that of a ratio over files; a single file has none.
    """
    pairs = zip(before.by_file, after.by_file, strict=True)
    change = bits_of([(b - a, size) for (a, size), (b, _) in pairs])
    n = len(change.by_file)
    low, high = interval(change) if n > 1 else (None, None)
    return {
        "name": name,
        "before": _figure(before),
        "after": _figure(after),
        "difference": {"mean": change.total, "low": low, "high": high, "n": n},
    }


def _figure(bits: Bits) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), (bits.total, *interval(bits)), strict=True))


def told(row: Mapping[str, Any]) -> str:
    """A row of `compared` in words: a gain or worse only where the whole interval is."""
    change = row["difference"]
    span = f"{row['before']['mean']:.3f} to {row['after']['mean']:.3f} bits per byte"
    text = f"{row['name']}: {span}"
    if change["low"] is None:
        return f"{text}, one file is no sample"
    verdict = "a gain" if change["high"] < 0 else "worse" if change["low"] > 0 else "no gain shown"
    by = f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"
    return f"{text}, {by} over {change['n']} files: {verdict}"


def baselines(
    train: Sequence[TextFile], held_out: Sequence[TextFile], tokenizer: Tokenizer
) -> dict[str, float]:
    """Bits per byte of the same held-out text by xz -9 and by 5-gram models of bytes and tokens."""
    texts = ["".join(f.text for f in files) for files in (train, held_out)]
    data = [t.encode() for t in texts]
    xz = xz_bits_per_byte(*data)
    of_bytes = [np.frombuffer(d, dtype=np.uint8) for d in data]
    of_tokens = [
        np.concatenate([document(tokenizer, f.text) for f in fs]) for fs in (train, held_out)
    ]
    found = {"xz": xz.alone, "xz_with_training_text": xz.given_train}
    for name, (past, new), vocab in (
        ("byte_5gram", of_bytes, 256),
        ("token_5gram", of_tokens, tokenizer.vocab_size),
    ):
        order = 5 if vocab**5 < 2**63 else 4  # a key must fit one integer
        found[name] = NGram.train(past, vocab, order).bits(new) / len(data[1])
    return found
