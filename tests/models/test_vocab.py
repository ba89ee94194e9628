"""A tokenizer that is not the model's is refused where the two are loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    return build(preset("nano", vocab_size=rows, **size), 0)


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


BEGIN, END, TURN = (TOKENIZER.special(n) for n in ("begin_of_text", "end_of_text", "eot"))


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ({}, ""),
        ({"bos_id": BEGIN, "eos_ids": (END,)}, ""),
        ({"bos_id": BEGIN, "eos_ids": (END, TURN, 300)}, ""),
        ({"eos_ids": (TURN,), "pad_id": 0}, ""),
        ({"bos_id": 1}, rf"<.begin_of_text.> as {BEGIN}, the model's bos_token_id is 1:"),
        ({"bos_id": 300}, "bos_token_id is 300:"),
        ({"eos_ids": (2,)}, r"turns with \[.*\], the model's eos_token_id is \[2\]:"),
        ({"eos_ids": (300, 301)}, r"eos_token_id is \[300, 301\]:"),
        ({"bos_id": BEGIN, "eos_ids": (BEGIN,)}, "eos_token_id is"),
    ],
)
def test_fewer_ids_are_padding_unless_beginning_or_end_differ(
    tmp_path: Path, ids: dict[str, Any], told: str
) -> None:
    padded = model(TOKENIZER.vocab_size + 40)
    padded.config = replace(padded.config, **ids)
    save_model(padded, TOKENIZER, tmp_path / "model")
    if not told:
        Engine(load_model(tmp_path)[0], TOKENIZER, 0)
        return
    with pytest.raises(UserError, match=f"the tokenizer in {tmp_path / 'model'} .*{told}") as line:
        load_model(tmp_path)
    assert "\n" not in str(line.value)


def test_a_tokenizer_without_such_tokens_is_not_asked() -> None:
    data = json.loads(TOKENIZER._json)
    data |= {"added_tokens": [], "post_processor": None}
    padded = replace(model(300).config, bos_id=1, eos_ids=(2,))
    check_vocab(Tokenizer(json.dumps(data)), padded)
