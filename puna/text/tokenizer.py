"""Byte-level BPE around Hugging Face `tokenizers`, with the turn tokens of Llama under our names.

`Tokenizer.train(["a text"], 512).save(Path("tok"))`; `Tokenizer.load(Path("tok")).encode("a")`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from puna.core.errors import UserError, nearest
from puna.text import tiktoken
from puna.text.formats import FORMATS, NONE, REFUSED, adapted, detect, fits
from puna.text.images import read_tiling
from puna.text.jinja import chat_template, own
from puna.text.spelling import spelling
from puna.text.tiling import Tiling
from puna.text.turns import TODAY, Format

# The last ids of every vocabulary trained here, in this order.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|header_start|>",
    "<|header_end|>",
    "<|eot|>",
    "<|eom|>",
    "<|pad|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|think_start|>",
    "<|think_end|>",
    "<|image|>",
    "<|reserved_0|>",
    "<|reserved_1|>",
    "<|reserved_2|>",
    "<|reserved_3|>",
)

# Behind them in a vocabulary for pictures.
IMAGE_TOKENS = (
    "<|image_start|>",
    "<|image_end|>",
    "<|patch|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)

# The roles of turns, as templates write them.
ROLES = ("system", "user", "assistant", "ipython")

# What files of Llama 3 and 4, of Qwen and of Mistral call the same tokens. Llama 3 has no closing
# tool token and no thinking tokens, and Llama 4 as converted leaves the latter unnamed: reserved
# ones stand in.
_ALIASES = {
    "begin_of_text": ("<s>",),
    "end_of_text": ("<|endoftext|>", "</s>"),
    "header_start": ("<|start_header_id|>",),
    "header_end": ("<|end_header_id|>",),
    "eot": ("<|eot_id|>", "<|im_end|>", "</s>"),
    "eom": ("<|eom_id|>",),
    "pad": ("<|finetune_right_pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>"),
    "python_start": ("<|python_tag|>", "<tool_call>", "[TOOL_CALLS]"),
    "python_end": ("<|reserved_special_token_0|>", "</tool_call>"),
    "think_start": ("<|reasoning_thinking_start|>", "<|reserved_special_token_1|>", "<think>"),
    "think_end": ("<|reasoning_thinking_end|>", "<|reserved_special_token_2|>", "</think>"),
}

MIN_VOCAB = 256 + len(SPECIAL_TOKENS)

# Llama 3's split; how many digits stand together is the caller's choice.
_SPLIT = tiktoken.PATTERNS["llama3"].replace("{1,3}", "{1,DIGITS}")


class Tokenizer:
    """Text to ids and back; user text never becomes a special token.

    `format` is how chats are written: that of the vocabulary's family, or what `load` found.
    """

    def __init__(self, tokenizer_json: str) -> None:
        """From the content of a tokenizer.json. Raises UserError where it cannot be read."""
        try:
            self._hf = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the binding raises nothing narrower
            raise UserError(
                f"tokenizer.json cannot be read: {str(error)[:200]}",
                fix="copy the file again, or train a tokenizer",
            ) from None
        self._hf.encode_special_tokens = True
        # Files leave tokens unmarked, <tool_call> for one, and then text could spell them.
        known = self._hf.get_added_tokens_decoder().values()
        loose = [t.content for t in known if not t.special]
        self._hf.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in loose])
        longest = sorted((re.escape(t.content) for t in known), key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(longest)})") if longest else None
        self._json = tokenizer_json
        self._ids: dict[str, int] = self._hf.get_vocab(with_added_tokens=True)
        self.format: Format = detect(self._ids)
        self._vocab_size = max(self._ids.values(), default=-1) + 1
        self._special: dict[str, int] = {}
        self.tiling: Tiling | None = None  # how pictures become tokens, where the model has eyes
        self._fixed: dict[str, list[int]] = {}
        self._cut: dict[str, list[str | int]] = {}
        self._given = (self.format, "")  # the Jinja template that came with it, for its format

    @staticmethod
    def train(
        texts: Iterable[str], vocab_size: int, digits: int = 1, tiling: Tiling | None = None
    ) -> Tokenizer:
        """Byte-level BPE with `vocab_size` ids, fewer where `texts` hold too few pairs to merge.

        With `digits` 1 each digit is a token: small models then see numbers by place value. With 3
        every number below 1,000 is one, much as Llama has it: then it is copied in one look. Those
        take 990 ids. With `tiling` the tokens of pictures come last. Deterministic. Raises
        UserError where `vocab_size` cannot hold what it must.
        """
        assert 1 <= digits <= 3, digits
        special = SPECIAL_TOKENS if tiling is None else SPECIAL_TOKENS + IMAGE_TOKENS
        if vocab_size < 256 + len(special):
            raise UserError(
                f"a vocabulary of {vocab_size} cannot hold 256 bytes"
                f" and {len(special)} special tokens",
                fix=f"ask for {256 + len(special)} or more",
            )
        hf = tokenizers.Tokenizer(models.BPE())
        hf.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLIT.replace("DIGITS", str(digits))), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        hf.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[],
            show_progress=False,
        )
        # Roles and the empty line behind them stand in every turn: one token each, on any corpus.
        roles = (f"{role}\n\n" * 100_000 for role in ROLES)
        numbers = [str(n) for n in range(10**digits)] if digits > 1 else []
        counted = " ".join([*numbers, ""]) * 3_000
        cleaned = (_without_surrogates(text) for text in texts)
        hf.train_from_iterator(itertools.chain(roles, [counted], cleaned), trainer)
        if missing := [n for n in numbers if hf.token_to_id(n) is None]:
            raise UserError(
                f"a vocabulary of {vocab_size} has no room for {len(missing)} of the numbers"
                f" of up to {digits} digits",
                fix=f"ask for {vocab_size + len(missing)} or more; frequent words take room too",
            )
        hf.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in special]
        )
        bos = SPECIAL_TOKENS[0]
        hf.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, hf.token_to_id(bos))]
        )
        trained = Tokenizer(hf.to_str(pretty=True))
        trained.tiling = tiling
        return trained

    @staticmethod
    def load(directory: Path) -> Tokenizer:
        """The tokenizer.json in `directory`, ours or a known family's, with its chat format.

        Where only Meta's tokenizer.model is there, that is read. The format is named by
        `chat_format` in tokenizer_config.json, or else the family's. Raises UserError where a file
        is absent or broken, and where the chat template is another family's.
        """
        path = Path(directory) / "tokenizer.json"
        if not path.exists() and (path.parent / tiktoken.NAME).exists():
            text = tiktoken.tokenizer_json(path.parent)
            return Tokenizer._with_format(text, path.parent)
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError:
            meta = (path.parent / "params.json").exists()
            raise UserError(
                f"no {tiktoken.NAME if meta else path.name} in {directory}",
                fix="name the directory of a model or of a tokenizer",
            ) from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text", fix="copy the file again") from None
        return Tokenizer._with_format(text, path.parent)

    @staticmethod
    def _with_format(text: str, directory: Path) -> Tokenizer:
        """From a tokenizer.json and what stands beside it in `directory`."""
        tokenizer = Tokenizer(text)
        tokenizer.format, template = _format(directory, tokenizer.format)
        tokenizer._given = (tokenizer.format, template)
        tokenizer.tiling = read_tiling(directory)
        return tokenizer

    def save(self, directory: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which `AutoTokenizer` reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_bytes(self._json.encode("utf-8"))
        config: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**9,
        }
        # A chat ends at eot, so that is what an outside engine has to stop at.
        for key, name in (("bos", "begin_of_text"), ("eos", "eot"), ("pad", "pad")):
            if (token := self.token(name)) is not None:
                config[f"{key}_token"] = token
        template = self._given[1] if self._given[0] == self.format else ""
        if template or self.format != NONE:
            config["chat_template"] = template or chat_template(self)
        if self.format != NONE:
            config["chat_format"] = {"name": self.format.name, "date": self.format.date}
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special token among them; a lone surrogate becomes '?'."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        clean = [_without_surrogates(text) for text in texts]
        return [e.ids for e in self._hf.encode_batch_fast(clean, add_special_tokens=False)]

    def encode_fixed(self, text: str) -> list[int]:
        """`encode`, remembered: for the few texts that come back in every turn."""
        if text not in self._fixed:
            self._fixed[text] = self.encode(text)
        return self._fixed[text]

    def cut(self, text: str) -> list[str | int]:
        """Words of a template: those that are tokens as their ids, the others as they are."""
        if text not in self._cut:
            parts = self._added.split(text) if self._added else [text]
            pieces = [self._ids[p] if i % 2 else p for i, p in enumerate(parts) if p]
            self._cut[text] = pieces
        return self._cut[text]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, unknown ids nothing."""
        text: str = self._hf.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def token(self, name: str) -> str | None:
        """How this vocabulary spells the special token `name` ("eot"), or None if it has none."""
        spellings = (f"<|{name}|>", *_ALIASES.get(name, ()))
        return next((s for s in spellings if s in self._ids), None)

    @property
    def opening(self) -> list[int]:
        """The id that a text begins with, where the vocabulary has one."""
        return [] if self.token("begin_of_text") is None else [self.special("begin_of_text")]

    def require_chat(self, where: Path) -> Tokenizer:
        """Itself. Raises UserError where the vocabulary in `where` has no known chat format."""
        if self.format == NONE:
            what = f"the tokenizer in {where} has no turn tokens of a known chat format"
            raise UserError(what, REFUSED)
        return self

    def special(self, name: str) -> int:
        """Id of the special token `name`, as "eot". Raises UserError where there is none."""
        if name in self._special:
            return self._special[name]
        if (token := self.token(name)) is None:
            known = (t[2:-2] for t in SPECIAL_TOKENS + IMAGE_TOKENS)
            raise UserError(
                f"this tokenizer has no <|{name}|> token",
                fix=f"use a Llama tokenizer or train one ({nearest(name, known)})",
            )
        self._special[name] = self._ids[token]
        return self._ids[token]

    def spelling(self) -> list[bytes | None]:
        """The bytes of every id; None for special tokens and for ids of no token.

        Raises UserError where the tokenizer is neither byte-level BPE nor SentencePiece.
        """
        return spelling(self._hf)

    @property
    def vocab_size(self) -> int:
        """The largest id plus one: rows that an embedding needs."""
        return self._vocab_size

    @property
    def digest(self) -> str:
        """sha256 of tokenizer.json, in hex."""
        return hashlib.sha256(self._json.encode("utf-8")).hexdigest()


def _without_surrogates(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _format(directory: Path, family: Format) -> tuple[Format, str]:
    """The format and the template to keep with it.

    The format is what tokenizer_config.json names, or `family` as its template has it, unless that
    contradicts it.
    """
    path = directory / "tokenizer_config.json"
    try:
        config: Any = json.loads(path.read_bytes()) if path.exists() else {}
        jinja = directory / "chat_template.jinja"
        given = jinja.read_text("utf-8") if jinja.exists() else config.get("chat_template")
        named = config.get("chat_format")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        what = f"the chat format in {directory} cannot be read: {str(error)[:200]}"
        raise UserError(what, "copy tokenizer_config.json and chat_template.jinja again") from None
    if isinstance(given, list):  # several, each with a name
        kept = [t for t in given if isinstance(t, dict) and t.get("name") == "default"]
        given = kept[0].get("template") if kept else ""
    template = str(given or "")
    if named is not None:
        settings = named if isinstance(named, dict) else {"name": named}
        name = str(settings.get("name"))
        if name not in FORMATS:
            raise UserError(f"{path}: no chat format {name!r}", nearest(name, FORMATS))
        form = replace(FORMATS[name], date=str(settings.get("date", TODAY)))
        if (form.gap, form.moves) != (family.gap, family.moves):
            what = f"{path}: chat format {name!r}, of whose tokens the vocabulary lacks some"
            raise UserError(what, f"name {family.name!r} or none")
        form = replace(form, bare_calls=family.bare_calls) if form.gap else form
    elif template and family is not NONE and not fits(family, template):
        what = f"the chat template in {directory} is not that of {family.name}"
        raise UserError(what, f'add "chat_format": "{family.name}" to {path} to use that')
    else:
        form = family
    refined = adapted(form, template) if template else form
    if named is None or refined.name == form.name:
        form = refined
    keep = bool(form.sign) and fits(form, template) and refined.name == form.name
    keep = (keep and form.date == TODAY and not own(template)) or form == NONE
    return form, template if keep else ""
