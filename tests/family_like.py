"""Small tokenizers made as those of Qwen 2.5, Qwen 3, Mistral 7B v0.3 and Mistral Nemo are."""

from __future__ import annotations

import json
from functools import cache

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from puna.text.tokenizer import Tokenizer

_CORPUS = [
    'system\nuser\nassistant\n{"name": "add", "arguments": {"a": 1}}\n\n' * 9,
    "You may call one or more functions to assist with the user query. " * 9,
    "a\n\nb\n\n\nc" * 20_000,  # breaks merge, as in these vocabularies
]
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>")
CALLS = ("<tool_call>", "</tool_call>")  # added but not special, as in the published files
THOUGHTS = ("<tool_response>", "</tool_response>", "<think>", "</think>")
MISTRAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
    *("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
LOOSE = {"chatml": (), "qwen2.5": CALLS, "qwen3": (*CALLS, *THOUGHTS)}
FAMILIES = ("qwen2.5", "qwen3", "mistral", "mistral-nemo")


def tokens(family: str) -> tuple[str, ...]:
    """The added tokens of a family's vocabulary."""
    return (*CHATML, *LOOSE[family]) if family in LOOSE else MISTRAL


@cache
def family_json(family: str) -> str:
    """A tokenizer.json."""
    if family == "mistral":
        return _sentencepiece()
    data = json.loads(Tokenizer.train(_CORPUS, 420)._json)
    hf = tokenizers.Tokenizer.from_str(
        json.dumps(data | {"added_tokens": [], "post_processor": None})
    )
    special = CHATML if family in LOOSE else MISTRAL
    hf.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    loose = LOOSE.get(family, ())
    hf.add_tokens([AddedToken(t, special=False, normalized=False) for t in loose])
    if family in LOOSE:
        hf.normalizer = normalizers.NFC()
    return str(hf.to_str())


def _sentencepiece() -> str:
    """BPE over words with a visible space, bytes for what it lacks, control tokens in the model."""
    hf = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    hf.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*MISTRAL, *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )
    hf.train_from_iterator([w for text in _CORPUS[:2] for w in text.split("\n")], trainer)
    data = json.loads(hf.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] in MISTRAL]
    hf = tokenizers.Tokenizer.from_str(json.dumps(data))
    strip = decoders.Strip(" ", 1, 0)
    hf.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    return str(hf.to_str())


@cache
def family_like(family: str) -> Tokenizer:
    """The tokenizer of `family_json`."""
    return Tokenizer(family_json(family))
