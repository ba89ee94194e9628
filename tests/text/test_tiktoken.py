"""tokenizer.model read: the ids of a plain tiktoken on any text, and Meta's special tokens."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from meta_layout import TOKENS, ranks, write_ranks

from puna.core.errors import UserError
from puna.text import tiktoken as reader
from puna.text.tokenizer import Tokenizer

LETTERS = st.sampled_from("theca st'ST12 \n\r/é汉A") | st.characters(exclude_categories=["Cs"])
FAMILIES = ("llama3", "llama4")
# Where the two families split otherwise, or a careless reading of either would.
HARD = [
    "it isn't", "It's ISN'T 'Tis can'T", "HTTPServer getHTTP", "12345678", "a\r\nb\n\n\n c",
    "x  \t y   ", "the/cat//\n", "é汉字🦙e\u0301", "\u00a0 \u2003\u0085", "\x00\x7f", "aaaaaaaa",
    " ", "", "<|eot_id|><|eot|><|begin_of_text|>", "thethethe there hat", "ſ'ſ K'K",
]  # fmt: skip


def read(directory: Path, family: str) -> Tokenizer:
    directory.mkdir(exist_ok=True)
    write_ranks(directory)
    more = {"moe_args": {"num_experts": 2}} if family == "llama4" else {}
    (directory / "params.json").write_text(json.dumps({"n_heads": 2} | more))
    return Tokenizer.load(directory)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    where = tmp_path_factory.mktemp("ranks")
    return {family: read(where / family, family) for family in FAMILIES}


def plain(text: str, family: str) -> list[int]:
    """tiktoken's rule: of all neighbours join those that make the token of the lowest rank."""
    rank = {token: i for i, token in enumerate(ranks())}
    out: list[int] = []
    for piece in regex.findall(reader.PATTERNS[family], text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while True:
            joined = [rank.get(a + b, TOKENS) for a, b in itertools.pairwise(parts)]
            if not joined or min(joined) == TOKENS:
                break
            i = joined.index(min(joined))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        out += [rank[part] for part in parts]
    return out


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150)
@given(text=st.text(LETTERS))
def test_ids_are_tiktokens(tokenizers: dict[str, Tokenizer], family: str, text: str) -> None:
    ids = tokenizers[family].encode(text)
    assert ids == plain(text, family)
    assert tokenizers[family].decode(ids) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_hard_places(tokenizers: dict[str, Tokenizer], family: str) -> None:
    for text in HARD:
        assert tokenizers[family].encode(text) == plain(text, family), text
    other = FAMILIES[1 - FAMILIES.index(family)]
    assert any(plain(text, family) != plain(text, other) for text in HARD)
    assert len(plain("thethethe there hat", family)) < 14  # merges happen


@pytest.mark.parametrize("family", FAMILIES)
def test_tiktoken_itself_agrees(tokenizers: dict[str, Tokenizer], family: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    own = tokenizers[family]
    special = {name: TOKENS + i for i, name in enumerate(reader.special_tokens(family == "llama4"))}
    theirs = tiktoken.Encoding(
        "x",
        pat_str=reader.PATTERNS[family],
        mergeable_ranks={token: i for i, token in enumerate(ranks())},
        special_tokens=special,
    )
    for text in (*HARD, Path(__file__).read_text(encoding="utf-8")):
        assert own.encode(text) == theirs.encode(text, disallowed_special=())
    assert own.vocab_size == theirs.n_vocab


# Places behind the ranks, from Meta's code: of 256 tokens, and of 2,048.
PLACES = {
    "llama3": {
        "begin_of_text": 0, "end_of_text": 1, "reserved_special_token_1": 3,
        "finetune_right_pad_id": 4, "start_header_id": 6, "end_header_id": 7, "eom_id": 8,
        "eot_id": 9, "python_tag": 10, "reserved_special_token_2": 12,
        "reserved_special_token_245": 255,
    },
    "llama4": {
        "begin_of_text": 0, "end_of_text": 1, "fim_prefix": 2, "header_start": 5, "header_end": 6,
        "eom": 7, "eot": 8, "step": 9, "text_post_train_reserved_special_token_5": 15,
        "python_start": 16, "python_end": 17, "finetune_right_pad": 18,
        "text_post_train_reserved_special_token_68": 79, "image_start": 80, "image_end": 81,
        "tile_x_separator": 84, "tile_y_separator": 85, "image": 90, "patch": 92,
        "vision_reserved_special_token_1047": 1133, "reasoning_thinking_start": 1142,
        "reasoning_thinking_end": 1143, "reserved_special_token_0": 1144,
        "reserved_special_token_903": 2047,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_stand_where_meta_has_them(
    tokenizers: dict[str, Tokenizer], family: str
) -> None:
    own = tokenizers[family]
    for name, place in PLACES[family].items():
        assert own.token(name) == f"<|{name}|>"
        assert own.special(name) == TOKENS + place
    names = reader.special_tokens(family == "llama4")
    assert len(names) == len(set(names)) == {"llama3": 256, "llama4": 2048}[family]
    assert own.vocab_size == TOKENS + len(names)
    assert own.format.name == {"llama3": "llama3.1", "llama4": "llama4"}[family]
    assert max(own.encode("<|eot_id|><|eot|>")) < TOKENS  # text never becomes one


def _line(number: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:number], text, *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_line(3, "not base64 at all"), r"tokenizer\.model, line 4: not a token"),
        (_line(3, "Zm9v"), r"line 4: not a token in base64 and its rank"),
        (_line(3, base64.b64encode(b"foo").decode() + " 3"), "a byte or a rank is missing"),
        (lambda lines: [*lines[:-2], lines[-1]], "299 tokens, of which a byte or a rank"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, change: Any, told: str) -> None:
    write_ranks(tmp_path)
    file = tmp_path / "tokenizer.model"
    file.write_text("\n".join(change(file.read_text().splitlines())))
    with pytest.raises(UserError, match=told) as raised:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_format_that_is_named_beside_it_counts(tmp_path: Path) -> None:
    assert read(tmp_path, "llama4").format.name == "llama4"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_format": "llama4-meta"}')
    assert Tokenizer.load(tmp_path).format.name == "llama4-meta"


def test_sentencepiece_is_told_apart(tmp_path: Path) -> None:
    """Llama 2's file of the same name."""
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00")
    with pytest.raises(UserError, match=r"line \d: not a token in base64"):
        Tokenizer.load(tmp_path)
