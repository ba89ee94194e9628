"""Models of a second's training, to be mixed: `teach(tiny(tokenizer, 0), tokenizer, rows, 60)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from puna.core.messages import Message
from puna.models import Decoder, build, save
from puna.models.presets import preset
from puna.text.template import render
from puna.text.tokenizer import Tokenizer


def tiny(tokenizer: Tokenizer, seed: int) -> Decoder:
    """An untrained model of two layers."""
    shape = {"hidden_size": 32, "num_layers": 2, "intermediate_size": 48, "expert_size": 24}
    return build(preset("nano", vocab_size=tokenizer.vocab_size, **shape), seed)


def teach(
    model: Decoder, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], steps: int
) -> None:
    """Train on questions and answers, one a step, in turn."""
    rows = [render(tokenizer, [Message.user(q), Message.assistant(a)]) for q, a in pairs]
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for step in range(steps):
        row = rows[step % len(rows)]
        ids = torch.tensor([row.ids])
        learn = torch.tensor(row.mask[1:], dtype=torch.bool)
        logits = model.logits(model(ids[:, :-1]))[0]
        F.cross_entropy(logits[learn], ids[0, 1:][learn]).backward()
        optimizer.step()
        optimizer.zero_grad()


def keep(model: Decoder, tokenizer: Tokenizer, directory: Path) -> None:
    """As a stage's directory."""
    save(model, directory / "model")
    tokenizer.save(directory / "model")
