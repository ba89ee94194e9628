"""Which numbers are read, and when they are right."""

from __future__ import annotations

import math

import pytest

from puna.envs.experiment.numbers import (
    NoNumbersError,
    compare,
    last_line,
    loss,
    parse,
    to_json,
)

NAN, INF = math.nan, math.inf


def test_nested_keys_are_joined_and_lists_kept() -> None:
    text = '{"a": {"b": 1, "c": {"d": [1, 2.5]}}, "e": true, "f": "word", "g": null, "h": [[1]]}'
    assert parse(text) == {"a.b": 1.0, "a.c.d": (1.0, 2.5), "e": 1.0}
    assert parse('{"x": 1e999, "y": -Infinity}') == {"x": INF, "y": -INF}
    assert math.isnan(parse('{"x": NaN}')["x"])  # type: ignore[arg-type]
    assert parse(f'{{"x": {"9" * 400}}}') == {"x": INF}
    assert to_json(parse('{"x": [1, 2], "y": 3}')) == {"x": [1.0, 2.0], "y": 3.0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("done", "no JSON"),
        ("[1, 2]", "no JSON object"),
        ("{}", "no numbers"),
        ('{"a": "1"}', "no numbers"),
        ('{"a": ' * 100_000, "no JSON"),
        ('{"a": [' + "1," * 20_000 + "1]}", "more than"),
    ],
)
def test_what_holds_no_numbers_is_said(text: str, why: str) -> None:
    with pytest.raises(NoNumbersError, match=why):
        parse(text)


def test_the_last_line() -> None:
    assert last_line('step 1\n{"a": 1}\n\n  \n') == '{"a": 1}'
    with pytest.raises(NoNumbersError):
        last_line(" \n")


@pytest.mark.parametrize(
    ("gold", "found", "wanted"),
    [
        (2.0, 2.1, 0.05),
        (-2.0, -2.1, 0.05),
        (-2.0, 2.0, 1.0),
        (0.0, 0.0, 0.0),
        (0.0, 1e-8, 0.01),
        (0.0, 1.0, 1.0),
        (1.0, 1e9, 1.0),
        (NAN, NAN, 0.0),
        (NAN, 1.0, 1.0),
        (1.0, NAN, 1.0),
        (INF, INF, 0.0),
        (INF, -INF, 1.0),
        (INF, 1e300, 1.0),
        (1.0, INF, 1.0),
    ],
)
def test_the_loss_of_a_number(gold: float, found: float, wanted: float) -> None:
    assert loss(gold, found) == pytest.approx(wanted)


def test_all_must_be_right() -> None:
    gold = {"a": 1.0, "b": -4.0, "c": (1.0, 0.0, 2.0)}
    near = {"a": 1.04, "b": -4.1, "c": (1.1, 0.0, 2.0), "more": 7.0}
    assert compare(gold, near).right  # (0.1 + 0 + 0) / 3 is within 0.05
    assert compare(gold, near).losses["c"] == pytest.approx(0.1 / 3)
    for wrong in (
        {**near, "a": 1.06},
        {**near, "b": 4.0},
        {**near, "c": (1.0, 0.0)},
        {**near, "c": (1.0, 0.0, 2.0, 1.0)},
        {**near, "c": 1.0},
        {**near, "a": (1.0,)},
        {**near, "a": NAN},
        {k: v for k, v in near.items() if k != "b"},
        {},
    ):
        assert not compare(gold, wrong).right, wrong
    assert compare(gold, {"a": 1.0}).share == pytest.approx(1 / 3)
