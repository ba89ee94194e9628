"""Meta's `tokenizer.model` of Llama 3 and 4 (tiktoken's lines "base64 rank") as a tokenizer.json.

`Tokenizer(tokenizer_json(Path("DIR")))`. The split and the special tokens are not in the file; they
are those of Meta's own code (llama-models 0.3.0), by which every id stands where Meta has it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from puna.core.errors import UserError

NAME = "tokenizer.model"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_LLAMA4 = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"llama3": _LLAMA3, "llama4": _LLAMA4}


def special_tokens(llama4: bool) -> list[str]:
    """What follows the ranks, in order: 256 tokens of Llama 3, 2,048 of Llama 4."""
    if not llama4:
        names = [
            "begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1",
            "finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id",
            "eot_id", "python_tag", "image",
        ]  # fmt: skip
        names += [f"reserved_special_token_{i}" for i in range(2, 246)]
        return [f"<|{name}|>" for name in names]
    text, vision, reasoning = (
        f"{kind}_reserved_special_token_" for kind in ("text_post_train", "vision", "reasoning")
    )
    names = [
        "begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix",
        "header_start", "header_end", "eom", "eot", "step", *(f"{text}{i}" for i in range(6)),
        "python_start", "python_end", "finetune_right_pad", *(f"{text}{i}" for i in range(8, 69)),
        "image_start", "image_end", f"{vision}0", f"{vision}1",
        "tile_x_separator", "tile_y_separator", *(f"{vision}{i}" for i in range(2, 6)),
        "image", f"{vision}6", "patch", *(f"{vision}{i}" for i in range(7, 1048)),
        *(f"{reasoning}{i}" for i in range(8)),
        "reasoning_thinking_start", "reasoning_thinking_end",
    ]  # fmt: skip
    names += [f"reserved_special_token_{i}" for i in range(2048 - len(names))]
    return [f"<|{name}|>" for name in names]


def tokenizer_json(directory: Path) -> str:
    """The tokenizer.json that gives every text the ids of `tokenizer.model` in `directory`.

    128,000 ranks are Llama 3's and 200,000 Llama 4's; of other numbers params.json decides.
    Raises UserError naming file and line for what is no such file.
    """
    path = directory / NAME
    ranks = read_ranks(path)
    llama4 = len(ranks) == 200_000 or (len(ranks) != 128_000 and _says_llama4(directory))
    letter = letters()

    def spelt(token: bytes) -> str:
        return "".join(letter[byte] for byte in token)

    special = special_tokens(llama4)
    added = [
        {"id": len(ranks) + i, "content": name, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for i, name in enumerate(special)
    ]
    byte_level: dict[str, Any] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
    }
    byte_level |= {"use_regex": False}
    split: dict[str, Any] = {
        "type": "Split",
        "pattern": {"Regex": PATTERNS["llama4" if llama4 else "llama3"]},
    }
    split |= {"behavior": "Isolated", "invert": False}
    begin, parts = {"SpecialToken": {"id": special[0], "type_id": 0}}, {}
    for part in "AB":
        parts[part] = {"Sequence": {"id": part, "type_id": 0}}
    data: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, parts["A"]],
            "pair": [begin, parts["A"], parts["B"]],
            "special_tokens": {
                special[0]: {"id": special[0], "ids": [len(ranks)], "tokens": [special[0]]}
            },
        },
        "decoder": byte_level,
        # A piece that is a token as a whole stays one, however its merges would go.
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {spelt(token): rank for token, rank in ranks.items()},
            "merges": [[spelt(a), spelt(b)] for a, b in _merges(ranks)],
        },
    }
    return json.dumps(data, ensure_ascii=False)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Tokens by rank, from 0 on without a gap. Raises UserError naming file and line."""
    ranks: dict[bytes, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"no file {path}", "copy it from where the weights are") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            what = f"{path}, line {number}: not a token in base64 and its rank"
            raise UserError(what, "Llama 3 and 4 have such files; copy it again") from None
    single = all(bytes([byte]) in ranks for byte in range(256))
    if not single or sorted(ranks.values()) != list(range(len(ranks))):
        what = f"{path}: {len(ranks)} tokens, of which a byte or a rank is missing"
        raise UserError(what, "copy it again")
    return ranks


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that makes a token, in the order in which tiktoken would join them."""
    out: list[tuple[bytes, bytes]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        pairs = [(a, b) for a, b in cuts if a in ranks and b in ranks]
        out += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return out


def letters() -> list[str]:
    """The visible letter that byte-level BPE (GPT-2's) writes for each byte."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


def _says_llama4(directory: Path) -> bool:
    """Whether params.json has what only Llama 4 has; whoever reads weights complains of it."""
    try:
        data = json.loads((directory / "params.json").read_bytes())
        data = data.get("model", data)
        return bool(data.get("moe_args") or data.get("nope_layer_interval"))
    except (OSError, ValueError, AttributeError):
        return False
