"""What is published about a preset's model: scores, contexts on offer, licence; each with source.

`published("llama4-scout").lines()`; the data, dated, is in `published.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Published:
    """Facts about one model; contexts in tokens, 0 where nothing is known beyond the preset."""

    licence: str
    trained_context: int = 0
    accepted_context: int = 0
    context_source: str = ""
    vision_parameters: int = 0
    results: tuple[Mapping[str, Any], ...] = ()
    offers: tuple[Mapping[str, Any], ...] = ()

    def lines(self) -> list[str]:
        """The facts for a person, one line a kind."""
        out = []
        if self.trained_context:
            trained, accepted = f"{self.trained_context:,}", f"{self.accepted_context:,}"
            out.append(
                f"trained at {trained} tokens, {accepted} are accepted: beyond {trained} it "
                f"extrapolates ({self.context_source})"
            )
        if self.offers:
            offers = "; ".join(
                f"{o['by']} {o['context']:,} ({o['source'].replace(';', ',')})" for o in self.offers
            )
            out.append(f"contexts on offer: {offers}")
        for result in self.results:
            scores = ", ".join(f"{name} {score}" for name, score in result["scores"].items())
            out.append(f"published ({result['source']}): {scores}")
        out.append(f"licence: {self.licence}")
        return out


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads((files("puna.export") / "published.toml").read_text())


def published(name: str) -> Published | None:
    """What is known of the preset `name`; None where nothing is."""
    table: dict[str, Any] = dict(_tables().get(name, {}))
    if not table or name.startswith("_"):
        return None
    table["licence"] = _tables()["_licences"][table["licence"]]
    for many in ("results", "offers"):
        table[many] = tuple(table.get(many, ()))
    return Published(**table)
