"""Outcomes hold what a record can hold, and nothing that is not a score."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.core.outcome import Infra, Invalid, Outcome, Scored, from_json, to_json

finite = st.floats(allow_nan=False, allow_infinity=False)
outcomes = (
    st.builds(Scored, finite, st.booleans(), st.dictionaries(st.text(), finite), st.text())
    | st.builds(Invalid, st.text())
    | st.builds(Infra, st.text())
)


@given(outcomes)
def test_json_round_trip(outcome: Outcome) -> None:
    assert from_json(json.loads(json.dumps(to_json(outcome)))) == outcome


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), True, "1", None, 10**400, torch.tensor(1.0), np.float32(1)],
)
def test_a_score_is_a_finite_number(value: Any) -> None:
    with pytest.raises(ValueError, match="a score must be"):
        Scored(value, True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scored(1.0, 1),  # type: ignore[arg-type]
        lambda: Scored(1.0, np.True_),  # type: ignore[arg-type]
        lambda: Scored(1.0, True, {"x": float("nan")}),
        lambda: Scored(1.0, True, {"x": torch.tensor(1.0)}),  # type: ignore[dict-item]
        lambda: Scored(1.0, True, evidence=b"x"),  # type: ignore[arg-type]
        lambda: Invalid(None),  # type: ignore[arg-type]
        lambda: Infra(ValueError("x")),  # type: ignore[arg-type]
    ],
)
def test_nothing_that_a_record_cannot_hold(make: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'maybe'"):
        from_json({"kind": "maybe"})
