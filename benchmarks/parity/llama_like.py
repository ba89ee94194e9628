"""Small tokenizers with the special tokens that Llama 3.1's and Llama 4's files have."""

from __future__ import annotations

import json
from functools import cache

import tokenizers
from tokenizers import AddedToken

from puna.text.tokenizer import Tokenizer

_CORPUS = [
    'system user assistant ipython {"name": "add", "parameters": {"a": 1}}\n\n' * 9,
    "Given the following functions, please respond with a JSON for a function call. " * 9,
    "a\n\n\nb" * 200_000,  # three line breaks are one token, as in Llama's vocabularies
]
SPECIALS = {
    "llama3.1": (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"),
        *("<|reserved_special_token_1|>", "<|finetune_right_pad_id|>"),
        *("<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_3|>"),
    ),
    "llama4": (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>"),
        *("<|fim_suffix|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>"),
        *("<|step|>", "<|text_post_train_reserved_special_token_0|>", "<|python_start|>"),
        *("<|python_end|>", "<|finetune_right_pad|>", "<|image_start|>", "<|image_end|>"),
        *("<|tile_x_separator|>", "<|tile_y_separator|>", "<|image|>", "<|patch|>"),
        *("<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"),
        "<|reserved_special_token_0|>",
    ),
}


@cache
def llama_json(family: str, special: bool = True) -> str:
    """A tokenizer.json; `special=False` leaves its turn tokens unmarked, as some files do."""
    data = json.loads(Tokenizer.train(_CORPUS, 500)._json)
    data |= {"added_tokens": [], "post_processor": None}
    hf = tokenizers.Tokenizer.from_str(json.dumps(data))
    tokens = [AddedToken(t, special=special, normalized=False) for t in SPECIALS[family]]
    hf.add_special_tokens(tokens) if special else hf.add_tokens(tokens)
    return str(hf.to_str())


@cache
def llama_like(family: str) -> Tokenizer:
    """The tokenizer of `llama_json`."""
    return Tokenizer(llama_json(family))
