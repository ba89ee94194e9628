"""Requests that schemathesis makes from an OpenAPI description, valid and invalid ones."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis")

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def fuzz(
    address: str,
    description: dict[str, Any],
    examples: int,
    seconds: float = math.inf,
    model: str = "list",
    headers: dict[str, str] | None = None,
) -> Counter[tuple[str, int]]:
    """Requests by route and status; raises AssertionError for one of 500 and above."""
    schema = schemathesis.openapi.from_dict(description)
    operations = [o.ok() for o in schema.get_all_operations()]
    modes = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    weights = [5 if o.method.upper() == "POST" else 1 for o in operations]
    share = seconds / sum(weights) / len(modes)
    counts = Counter[tuple[str, int]]()
    for (operation, weight), mode in itertools.product(
        zip(operations, weights, strict=True), modes
    ):
        if mode.is_negative and not (operation.body or list(operation.iter_parameters())):
            continue  # nothing of it can be wrong
        cases = operation.as_strategy(generation_mode=mode)
        until = time.monotonic() + share * weight
        known = model if mode.is_positive else ""
        found = _sent(address, cases, examples, until, known, headers or {})
        counts.update((operation.label, status) for status in found)
    return counts


def _sent(
    address: str, cases: Any, examples: int, until: float, known: str, headers: dict[str, str]
) -> list[int]:
    """The statuses of the answers that there was time for; `known` is the model that is there.

    Where time is no limit, the requests are the same each time.
    """
    found: list[int] = []

    @settings(max_examples=examples, database=None, phases=[Phase.generate],
              derandomize=math.isinf(until), suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(cases)
    def ask(case: Any) -> None:
        if time.monotonic() > until:
            return
        if isinstance(case.body, dict):
            limits = {n: case.body[n] for n in LIMITS if type(case.body.get(n)) is int}
            case.body |= {n: min(value, 9) for n, value in limits.items()}
            case.body |= {"model": known} if known else {}
            if known and "prompt_token_ids" in case.body:  # no schema says "one of the two"
                case.body = {k: v for k, v in case.body.items() if k not in ("messages", "prompt")}
        response = case.call(base_url=address, timeout=60, headers=headers)
        found.append(response.status_code)
        assert response.status_code < 500, (case.body, response.text)

    try:
        ask()
    except Unsatisfiable:
        pass  # no such request can be made
    return found
