"""What is published about the family: scores, contexts on offer, licence; each with its source.

`published("llama4-scout").lines()`, `recognise(config)` finds the name by the shape; the data,
dated, is in `published.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from puna.models.config import ModelConfig
from puna.models.presets import preset, preset_names

# What makes a shape somebody's: the sizes. Base and instruct models, and later releases of one
# size, differ in ids, in the context and, of Llama 4, perhaps in the scaling of rotations.
_SIZES = (
    "family", "vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
    "num_experts", "tie_embeddings", "attention_chunk", "nope_every",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Facts about one model; contexts in tokens, 0 where nothing is known.

    `unreleased` says what is known of a model whose shape and weights nobody has.
    """

    licence: str = ""
    trained_context: int = 0
    accepted_context: int = 0
    context_source: str = ""
    vision_parameters: int = 0
    unreleased: str = ""
    results: tuple[Mapping[str, Any], ...] = ()
    offers: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[Mapping[str, str], ...] = ()

    def lines(self, takes: int = 0) -> list[str]:
        """The facts for a person, one line a kind; `takes`: the tokens that the config at hand
        allows, where they may be others.
        """
        out = [self.unreleased] if self.unreleased else []
        accepted = f"{self.accepted_context:,}"
        if self.trained_context:
            trained = f"{self.trained_context:,}"
            out.append(
                f"trained at {trained} tokens, {accepted} are accepted: beyond {trained} it "
                f"extrapolates ({self.context_source})"
            )
        elif self.accepted_context:
            out.append(f"{accepted} tokens are accepted ({self.context_source})")
        if self.accepted_context and takes not in (0, self.accepted_context):
            out[-1] += f"; the config at hand takes {takes:,}"
        if self.offers:
            out.append("contexts on offer: " + "; ".join(map(_offer, self.offers)))
        for result in self.results:
            scores = ", ".join(f"{name} {score}" for name, score in result["scores"].items())
            out.append(f"published ({result['source']}): {scores}")
        out += [f"{note['says']} ({note['source']})" for note in self.notes]
        return [*out, *([f"licence of its weights: {self.licence}"] if self.licence else [])]


def _offer(offer: Mapping[str, Any]) -> str:
    source = offer["source"].replace(";", ",")
    but = f", but {offer['conflict']}" if "conflict" in offer else ""
    return f"{offer['by']} {offer['context']:,}{but} ({source})"


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads((files("puna.export") / "published.toml").read_text())


def published_names() -> list[str]:
    """The names that `published` knows."""
    return [name for name in _tables() if not name.startswith("_")]


def published(name: str) -> Published | None:
    """What is known of the model `name`; None where nothing is."""
    if name not in published_names():
        return None
    table = {k: v for k, v in _tables()[name].items() if k not in ("like", "with")}
    if "licence" in table:
        table["licence"] = _tables()["_licences"][table["licence"]]
    for many in ("results", "offers", "notes"):
        table[many] = tuple(table.get(many, ()))
    return Published(**table)


def recognise(config: ModelConfig) -> str:
    """Whose shape it is, by its sizes: a name that `published` knows, or ''.

    Others have trained on from these models or taken their shape: facts found so are about the
    model of that name.
    """
    return next((n for n, known in _shapes().items() if _sizes(known) == _sizes(config)), "")


@cache
def _shapes() -> dict[str, ModelConfig]:
    """The shape of every model that has one."""
    out = {}
    for name in published_names():
        table = _tables()[name]
        like = table.get("like", name)
        if like in preset_names():
            out[name] = preset(like, **table.get("with", {}))
    return out


def _sizes(config: ModelConfig) -> tuple[object, ...]:
    """What must agree: sizes in use, and in Llama 3 whether and how rotations are stretched."""
    moe = config.num_moe_layers
    dense = config.intermediate_size if moe < config.num_layers else 0
    expert, every = (config.expert_size, config.moe_every) if moe else (0, 1)
    scaling = config.rope_scaling if config.family == "llama3" else None
    return (*(getattr(config, n) for n in _SIZES), dense, expert, every, scaling)
