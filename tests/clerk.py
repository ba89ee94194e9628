"""A checkpoint that knows one customer of the shop by heart, for whoever plays or serves one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from puna.gym.registry import load_environment
from puna.models import hf
from puna.models.presets import build, preset
from puna.text.packing import IGNORE
from puna.text.template import render
from puna.text.tokenizer import Tokenizer
from puna.train.data import demonstrations
from puna.train.loss import next_token_loss

SHOP = {"prompt": "none", "intents": 1}


@pytest.fixture(scope="session")
def clerk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model trained on the demonstration of the shop's last train task."""
    torch.set_num_threads(1)
    chat = demonstrations(load_environment("shop", SHOP, 0), 1)[0]
    tokenizer = Tokenizer.train([m.text for m in chat.messages] * 3 + ["the quick brown fox"], 300)
    model = build(preset("nano", vocab_size=tokenizer.vocab_size, hidden_size=48), seed=1)
    shown = render(tokenizer, chat.messages, tools=chat.tools)
    ids, mask = torch.tensor([shown.ids]), torch.tensor([shown.mask])
    want = torch.where(mask, ids, IGNORE)[0, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = next_token_loss(model, model(ids[:, :-1])[0], want) / int(mask.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 2e-3:
            break
    assert float(loss.detach()) < 0.05
    there = tmp_path_factory.mktemp("clerk") / "model"
    hf.save(model, there)
    tokenizer.save(there)
    return there
