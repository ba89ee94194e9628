"""The tokenizer: exact, deterministic, closed to special tokens in text, readable by its peers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.text.tokenizer import MIN_VOCAB, SPECIAL_TOKENS, Tokenizer

TEXTS = [
    "def area(width, height):\n    return width * height  # 12345\n",
    "The puna is the high grassland where llamas are raised. The llamas graze there.\n" * 3,
    '{"name": "add", "parameters": {"a": 1, "b": 2}}\n',
]
TOKENIZER = Tokenizer.train(TEXTS, 400)
AWKWARD = st.text() | st.lists(st.sampled_from([*SPECIAL_TOKENS, " ", "\n", "12"])).map("".join)


@given(AWKWARD)
def test_decode_inverts_encode(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(AWKWARD)
def test_text_never_becomes_a_special_token(text: str) -> None:
    lowest = min(TOKENIZER.special(t[2:-2]) for t in SPECIAL_TOKENS)
    assert all(i < lowest for i in TOKENIZER.encode(text))


def test_the_binding_alone_would_let_special_tokens_in() -> None:
    hf = tokenizers.Tokenizer.from_str(TOKENIZER._json)
    assert hf.encode("a<|eot|>", add_special_tokens=False).ids[-1] == TOKENIZER.special("eot")
    assert len(TOKENIZER.encode("a<|eot|>")) > 4


def test_special_tokens_have_the_last_ids_in_order() -> None:
    ids = [TOKENIZER.special(t[2:-2]) for t in SPECIAL_TOKENS]
    assert ids == list(range(TOKENIZER.vocab_size - len(SPECIAL_TOKENS), TOKENIZER.vocab_size))


def test_vocabulary_has_the_size_asked_for_where_the_text_suffices() -> None:
    assert TOKENIZER.vocab_size < 400  # three lines hold too few pairs
    words = " ".join(f"{chr(97 + i % 26)}{chr(97 + i // 26)}llama" for i in range(26 * 26))
    assert Tokenizer.train([words], 500).vocab_size == 500


def test_every_digit_is_a_token_of_its_own() -> None:
    tokenizer = Tokenizer.train(["2024 2024 2024 12 + 12 = 24\n" * 50], 400)
    assert [tokenizer.decode([i]) for i in tokenizer.encode(" 2024")] == [" ", "2", "0", "2", "4"]


def test_every_byte_has_a_token() -> None:
    tokenizer = Tokenizer.train([""], MIN_VOCAB)
    assert tokenizer.vocab_size == MIN_VOCAB
    every = "".join(map(chr, [*range(0x800), 0xFFFD, 0x1F999]))
    assert len(tokenizer.encode(every)) == len(every.encode())


def test_bytes_that_are_not_utf8_decode_to_the_replacement_character() -> None:
    tokenizer = Tokenizer.train([""], MIN_VOCAB)
    ids = tokenizer.encode("é")
    assert len(ids) == 2
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    assert tokenizer.encode("\ud800") == tokenizer.encode("?")


def test_batch_equals_one_by_one() -> None:
    assert TOKENIZER.encode_batch(TEXTS) == [TOKENIZER.encode(t) for t in TEXTS]
    assert TOKENIZER.encode_batch([]) == []


def test_training_is_deterministic_across_processes() -> None:
    code = (
        "from puna.text.tokenizer import Tokenizer; from tests.text.test_tokenizer import TEXTS;"
        "print(Tokenizer.train(TEXTS, 400).digest)"
    )
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        out = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == TOKENIZER.digest
    assert Tokenizer.train(TEXTS[:2], 400).digest != TOKENIZER.digest


def test_save_and_load_keep_ids_and_digest(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.digest == TOKENIZER.digest
    assert loaded.encode(TEXTS[0] + "<|eot|>") == TOKENIZER.encode(TEXTS[0] + "<|eot|>")


def test_transformers_loads_what_save_wrote(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    TOKENIZER.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, " é\t\n\n  x 🦙"]:
        ids = peer(text, add_special_tokens=False).input_ids
        assert ids == TOKENIZER.encode(text)
        assert peer.decode(ids) == text
    assert peer("a").input_ids[0] == TOKENIZER.special("begin_of_text")
    assert (peer.eos_token_id, peer.pad_token_id) == (
        TOKENIZER.special("eot"),
        TOKENIZER.special("pad"),
    )


def test_llama_3_names_are_known(tmp_path: Path) -> None:
    hf = tokenizers.Tokenizer.from_str(Tokenizer.train(TEXTS, 400)._json)
    text = hf.to_str()
    for ours, theirs in {
        "<|header_start|>": "<|start_header_id|>",
        "<|header_end|>": "<|end_header_id|>",
        "<|eot|>": "<|eot_id|>",
        "<|python_start|>": "<|python_tag|>",
        "<|think_end|>": "<|unheard_of|>",
    }.items():
        text = text.replace(ours, theirs)
    (tmp_path / "tokenizer.json").write_text(text)
    loaded = Tokenizer.load(tmp_path)
    for name in ("header_start", "header_end", "eot", "python_start", "begin_of_text"):
        assert loaded.special(name) == TOKENIZER.special(name)
    with pytest.raises(UserError, match="think_end"):
        loaded.special("think_end")


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json in"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=f"ask for {MIN_VOCAB}"):
        Tokenizer.train(TEXTS, 100)
    with pytest.raises(UserError, match="'eot'"):
        TOKENIZER.special("eott")


def test_numbers_of_up_to_three_digits_are_one_token_each_if_asked_for():
    grouped = Tokenizer.train(["order 482 of customer 17"] * 20, 1400, digits=3)
    for text, count in (("7", 1), ("48", 1), ("482", 1), ("4821", 2), ("1234567", 3)):
        assert len(grouped.encode(text)) == count, text
        assert grouped.decode(grouped.encode(text)) == text
    single = Tokenizer.train(["order 482 of customer 17"] * 20, 1400)
    assert len(single.encode("482")) == 3
    with pytest.raises(UserError, match=r"no room for 9\d\d of the numbers"):
        Tokenizer.train(["a"], 300, digits=3)
