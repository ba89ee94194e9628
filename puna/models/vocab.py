"""Whether a tokenizer fits a model: `check_vocab(tokenizer, model.config)`."""

from __future__ import annotations

from pathlib import Path

from puna.core.errors import UserError
from puna.models.config import ModelConfig
from puna.text.template import stop_ids
from puna.text.tokenizer import Tokenizer

_FIX = "copy the tokenizer.json that belongs to the weights"


def check_vocab(tokenizer: Tokenizer, config: ModelConfig, where: Path | None = None) -> None:
    """Raises UserError where the tokenizer (in `where`) is not the model's.

    It may have fewer ids than the model has embeddings, since rows are padded to a round number,
    but not more; and texts must begin and end with the ids that the configuration names, if it
    names any.
    """
    named = f"the tokenizer{f' in {where}' if where else ''}"
    if tokenizer.vocab_size > config.vocab_size:
        sizes = f"{tokenizer.vocab_size} ids and the model {config.vocab_size} embeddings"
        raise UserError(f"{named} has {sizes}: they are not of one model", _FIX)
    begin, ends = tokenizer.token("begin_of_text"), stop_ids(tokenizer)
    if begin is not None and config.bos_id not in (None, tokenizer.special("begin_of_text")):
        what = f"{named} has {begin} as {tokenizer.special('begin_of_text')}, the model's"
        raise _disagree(what, "bos_token_id", config.bos_id)
    if ends and config.eos_ids and not set(ends) & set(config.eos_ids):
        what = f"{named} ends texts and turns with {ends}, the model's"
        raise _disagree(what, "eos_token_id", list(config.eos_ids))


def _disagree(what: str, name: str, value: object) -> UserError:
    fix = f"{_FIX}, or mend {name} in config.json"
    return UserError(f"{what} {name} is {value}: they are not of one model", fix)
