"""Edges of the engine's way on a GPU: what ends or moves while a step is under way."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

from puna.core.errors import UserError
from puna.engine.ahead import Ahead
from puna.engine.captured import fills
from puna.engine.local import Engine, Request
from puna.engine.pages import Pages
from puna.engine.policy import SamplingParams
from puna.models.presets import build
from tests.kernels.test_ahead import CONFIG, Ids, engine, requests, same


def test_weights_may_come_when_a_row_ends_with_the_step_under_way() -> None:
    made = engine(True)
    row = made.add(Request((9, 10, 11), SamplingParams(3, 0.0), ("w",)))
    made.stop_ids = ()
    while len(row.ids) < 2:
        made.step()
    assert isinstance(made.batch, Ahead)
    assert made.batch.under_way
    made.load_weights(dict(build(CONFIG, 1).state_dict()), 1)
    assert row.finish == "length"
    told = made.step()
    assert row in told


def test_a_step_tells_one_token_of_a_row() -> None:
    """Also where the rows change from one way to the other, and of rows that no graph draws."""
    made = engine(True)
    made.stop_ids = ()
    rows = [made.add(r) for r in requests(2, new=14)]
    told: dict[int, int] = {}
    steps = 0
    while not made.idle:
        if steps in (4, 9):
            rows += [made.add(r) for r in requests(4, new=6, top_k=5)[2 + (steps == 9) :][:1]]
        for row in made.step():
            told[id(row)] = told.get(id(row), 0) + 1
            assert told[id(row)] == len(row.ids)
        steps += 1
    assert all(told[id(r)] == len(r.ids) for r in rows)


def test_rows_are_found_where_another_batch_has_moved_their_pages() -> None:
    """Reading one token of two rows brings their pages together, and others change places."""
    results = []
    for ahead in (True, False):
        made = engine(ahead, slots=32)
        made.stop_ids = ()
        for i in range(3):
            made.add(Request(tuple(range(8, 9 + i)), SamplingParams(2), ("x", i)))
        asked = [Request(r.prompt_ids, SamplingParams(18, 0.0), r.key) for r in requests(2)]
        rows = [made.add(r) for r in asked]
        for _ in range(9):
            made.step()
        before = made.pages.stamp
        for i in range(2):
            made.add(Request((50 + i,), SamplingParams(1), ("s", i)))
        made.step()
        assert made.pages.stamp != before or not ahead
        while not made.idle:
            made.step()
        results.append([r.completion() for r in rows])
    same(*results)


@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_quantised_weights_are_refused_where_no_kernel_reads_them(kind: str) -> None:
    model = build(CONFIG, 0)
    model.decode_weights = kind
    with pytest.raises(UserError, match=f"machine.weights is '{kind}', and no kernel"):
        Engine(model, Ids(), 0)


@pytest.mark.parametrize(("chunk", "wanted"), [(None, True), (8192, True), (1000, False)])
def test_pages_that_do_not_fill_a_block_are_not_for_the_kernels(
    chunk: int | None, wanted: bool
) -> None:
    config = replace(CONFIG, attention_chunk=chunk)
    assert fills(config, Pages(config).size) is wanted
