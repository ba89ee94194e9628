"""A tokenizer with more ids than the model has embeddings is refused where the two are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.engine.local import Engine
from puna.models.decoder import Decoder
from puna.models.presets import build, preset
from puna.models.vocab import check_vocab
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import load_model, save_model

TOKENIZER = Tokenizer.train(["a b c"], 280)


def model(rows: int) -> Decoder:
    size = {"hidden_size": 32, "num_heads": 2, "num_layers": 1}
    return build(preset("nano", vocab_size=rows, bos_id=0, eos_ids=(1,), pad_id=2, **size), 0)


def test_more_ids_than_embeddings_are_refused(tmp_path: Path) -> None:
    count = TOKENIZER.vocab_size
    for rows in (count, count + 40):
        check_vocab(TOKENIZER, model(rows).config)
    small = model(count - 1)
    line = f" has {count} ids and the model {count - 1} embeddings"
    with pytest.raises(UserError, match=f"the tokenizer{line}"):
        Engine(small, TOKENIZER, 0)
    save_model(small, TOKENIZER, tmp_path / "model")
    with pytest.raises(UserError, match=f"the tokenizer in {tmp_path / 'model'}{line}"):
        load_model(tmp_path)
