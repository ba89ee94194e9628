"""Whether a tokenizer fits a model: `check_vocab(tokenizer, model.config)`."""

from __future__ import annotations

from pathlib import Path

from puna.core.errors import UserError
from puna.models.config import ModelConfig
from puna.text.tokenizer import Tokenizer


def check_vocab(tokenizer: Tokenizer, config: ModelConfig, where: Path | None = None) -> None:
    """Raises UserError where the tokenizer (in `where`) has ids without embeddings in the model.

    More embeddings than ids are usual: rows are padded to a round number.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer{f' in {where}' if where else ''} has {tokenizer.vocab_size} ids and the"
            f" model {config.vocab_size} embeddings: they are not of one model",
            "copy the tokenizer.json that belongs to the weights",
        )
