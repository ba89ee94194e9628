"""Models that say what is written for them: each token of a script is followed by the next one.

`chain(directory, ["<|python_start|>", "[f(a=1)]", "<|eot|>"])`: attention and MLP add nothing, a
token's embedding is its own direction, and the head's row of the next token points there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from puna.models import ModelConfig, build, save
from puna.text.template import render
from puna.text.tokenizer import Tokenizer

SPECIAL = {f"<|{n}|>": n for n in ("python_start", "python_end", "think_start", "think_end", "eot")}


def chain(directory: Path, script: Sequence[str], endless: bool = False, room: int = 4096) -> Path:
    """A checkpoint that answers any prompt with `script`; `endless`: over and over again.

    No token may occur twice, since the next one depends on nothing else.
    """
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["0123456789"] * 3, 300)
    ids: list[int] = []
    for piece in script:
        ids += [tokenizer.special(SPECIAL[piece])] if piece in SPECIAL else tokenizer.encode(piece)
    assert len(set(ids)) == len(ids), "a token occurs twice"
    config = ModelConfig(
        family="llama3", vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=1, num_heads=2,
        num_kv_heads=1, head_dim=8, intermediate_size=8, max_positions=room,
    )  # fmt: skip
    model = build(config, seed=0)
    start = render(tokenizer, [], open_turn=True).ids[-1]
    follow = list(zip([start, *ids], [*ids, *(ids[:1] if endless else ())], strict=False))
    assert model.head is not None
    assert len(follow) < config.hidden_size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        for at, (before, after) in enumerate(follow):
            model.embed[before, at] = 1.0
            model.head.weight[after, at] = 4.0
        model.embed[:, -1] += 0.01  # a norm of zero is none
    save(model, directory)
    tokenizer.save(directory)
    return directory
