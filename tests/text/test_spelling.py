"""The bytes of every token, against the tokenizer's own decoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from family_like import FAMILIES, family_like
from hypothesis import given, settings
from hypothesis import strategies as st
from meta_layout import write_ranks

from puna.core.errors import UserError
from puna.text.spelling import spelling
from puna.text.tokenizer import SPECIAL_TOKENS, Tokenizer

ALL = ("puna", "tiktoken", *FAMILIES)
PUNA = Tokenizer.train(["the cat sat é汉字 🦙 12"] * 9, 320)


def ranked(directory: Path) -> Tokenizer:
    write_ranks(directory)
    (directory / "params.json").write_text(json.dumps({"n_heads": 2}))
    return Tokenizer.load(directory)


def named(family: str, directory: Path) -> Tokenizer:
    if family in FAMILIES:
        return family_like(family)
    return PUNA if family == "puna" else ranked(directory)


@pytest.mark.parametrize("family", ALL)
def test_every_token_spells_what_it_decodes_to(family: str, tmp_path: Path) -> None:
    tokenizer = named(family, tmp_path)
    spelt, anchor = tokenizer.spelling(), tokenizer.encode("a")
    assert len(spelt) == tokenizer.vocab_size
    added = set(tokenizer._hf.get_added_tokens_decoder())
    assert {i for i, text in enumerate(spelt) if text is None} == added
    halves = 0
    for i, text in enumerate(spelt):
        if text is not None:  # behind a letter: a text's first blank may be dropped
            decoded = tokenizer.decode([*anchor, i]).removeprefix("a")
            assert decoded == text.decode("utf-8", "replace"), (i, text)
            halves += "\ufffd" in decoded
    assert halves >= 128


@pytest.mark.parametrize("family", ALL)
@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_bytes_of_ids_join_to_the_text(
    family: str, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer = named(family, tmp_path_factory.getbasetemp())
    spelt = tokenizer.spelling()
    ids = tokenizer.encode(text)
    joined = b"".join(spelt[i] or b"" for i in ids).decode()
    assert joined.removeprefix(" ") == tokenizer.decode(ids).removeprefix(" ")


def test_special_tokens_spell_nothing() -> None:
    spelt = PUNA.spelling()
    assert [PUNA._hf.id_to_token(i) for i, text in enumerate(spelt) if text is None] == list(
        SPECIAL_TOKENS
    )


def test_a_decoder_without_bytes_is_refused() -> None:
    hf = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="a"))
    hf.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(UserError, match="decoder WordPiece"):
        spelling(hf)
    hf.decoder = None
    with pytest.raises(UserError, match="decoder none"):
        spelling(hf)
