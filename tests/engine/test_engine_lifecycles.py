"""Requests that come, wait, are put off, cancelled, forgotten: every page returns."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.rng import stream
from puna.engine.local import Engine, Request, Running
from puna.engine.policy import SamplingParams
from tests.engine.test_local_engine import CLOSE, TOKENIZER, model, worst

SHAPES = ("dense", "chunked", "moe")


def made(shape: str, frozen: bool, pages: int, slots: int = 6) -> Engine:
    """An engine with pages of at most 8 tokens, so few that rows have to be put off."""
    engine = Engine(copy.deepcopy(model(shape)), TOKENIZER, 0, slots, frozen, False, 1 << 30, 8)
    pools = engine.pages.pools.values()
    engine.pages.limit = sum(p.page_bytes for p in pools) * pages + engine.pages.bytes
    return engine


def asked(draw: np.random.Generator, number: int) -> list[Request]:
    """One request or several choices of one, about one of a few beginnings."""
    beginning = stream(0, "begin", int(draw.integers(3))).integers(0, 256, 40)
    length = int(draw.integers(1, 40))
    ids = tuple(beginning[:length].tolist()) + tuple(draw.integers(0, 256, 3).tolist())
    params = SamplingParams(int(draw.integers(1, 24)), float(draw.choice([0.0, 1.0])))
    talk = (f"talk/{number}", "agent") if draw.random() < 0.3 else None
    many = 1 if talk or draw.random() < 0.7 else 3
    return [Request(ids, params, ("r", number, i), (), talk) for i in range(many)]


def live(engine: Engine, seed: int, count: int) -> list[tuple[Running, int]]:
    """Submit `count` requests at random times, cancel some; each with the weights' number."""
    draw, rows, since = stream(seed, "life"), list[tuple[Running, int]](), 0
    other = {k: v * 1.01 for k, v in engine.model.state_dict().items()}
    while since < count or not engine.idle:
        if since < count and draw.random() < 0.5:
            for request in asked(draw, since):
                rows.append((engine.add(request), engine.version))
            since += 1
        if rows and draw.random() < 0.1:
            rows[int(draw.integers(len(rows)))][0].cancelled = True
        if draw.random() < 0.05:
            engine.forget(f"talk/{int(draw.integers(max(1, since)))}")
        if draw.random() < 0.01:
            engine.load_weights(other, engine.version + 1)
        before = len(engine.running)
        told = engine.step(urgent=bool(draw.random() < 0.8))
        assert max(len(told), before) <= engine.slots
        assert engine.pages.bytes <= (engine.pages.limit or 0)
    return rows


def check(engine: Engine, rows: list[tuple[Running, int]]) -> None:
    assert all(row.finish for row, _ in rows)
    for row, _ in rows:
        if row.finish != "cancelled":
            done = row.completion()
            assert len(done.ids) == len(done.logprobs) == len(done.versions) > 0
            assert done.finish == "stop" or len(done.ids) == row.request.params.max_tokens
    engine.step()
    assert engine.pages.used == engine.kept.bytes
    engine.kept.forget()
    assert engine.pages.used == 0
    for pool in engine.pages.pools.values():
        assert pool.free == pool.count


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=12)
@given(st.integers(0, 10**6), st.booleans(), st.integers(9, 60), st.integers(1, 9))
def test_every_page_returns(shape: str, seed: int, frozen: bool, pages: int, slots: int) -> None:
    engine = made(shape, frozen, pages, slots)
    check(engine, live(engine, seed, 25))


@pytest.mark.slow
def test_every_page_of_ten_thousand_lives_returns() -> None:
    for seed in range(100):
        engine = made(SHAPES[seed % 3], seed % 2 == 0, 9 + seed % 30, 1 + seed % 8)
        check(engine, live(engine, seed, 100))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_that_are_put_off_lose_nothing(
    shape: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pages for two or three of six rows: the same tokens, and the trainer's probabilities."""
    given = [
        Request(tuple(stream(0, "p", i).integers(0, 256, 5 + i).tolist()),
                SamplingParams(30), ("k", i))
        for i in range(6)
    ]  # fmt: skip
    calm = made(shape, False, 1000).generate(given)
    tight = made(shape, frozen, 11)
    put_off: list[int] = []
    real: Callable[..., None] = Engine._remake
    monkeypatch.setattr(
        Engine, "_remake", lambda self, rows: put_off.append(len(rows)) or real(self, rows)
    )
    got = tight.generate(given)
    assert tight.prefilled_tokens > sum(len(r.prompt_ids) for r in given)  # some were read again
    assert [c.ids for c in got] == [c.ids for c in calm]
    assert worst(model(shape), given, got) < CLOSE


def test_the_row_that_began_last_is_put_off_first() -> None:
    """Not the one with the longest prompt; it goes on where it stood when there is room."""
    lengths = (20, 4, 12, 6)
    given = [
        Request(tuple(range(n)), SamplingParams(40, 0.0), ("o", i)) for i, n in enumerate(lengths)
    ]
    engine = made("dense", False, 12)
    rows = [engine.add(request) for request in given]
    while not engine.waiting or not all(row.ids for row in rows):
        engine.step()
    assert list(engine.waiting) == rows[3:]
    while not engine.idle:
        engine.step()
    got = [row.completion() for row in rows]
    assert [len(c.ids) for c in got] == [40] * 4
    assert worst(model("dense"), given, got) < CLOSE


def test_what_never_fits_is_refused() -> None:
    engine = made("dense", False, 4)
    with pytest.raises(UserError, match="cache"):
        engine.add(Request((1, 2, 3), SamplingParams(5000), ("x",)))
    assert engine.idle


@pytest.mark.parametrize("piece", [12, 16, 2048])
@pytest.mark.parametrize("even", [False, True])
def test_a_prompt_of_many_chunks_is_read_in_the_pages_of_one(
    even: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for exactly that: the pool of local layers, and the limit, show any page more."""
    monkeypatch.setattr("puna.engine.reading.PREFILL", piece)
    asked = Request(tuple(stream(0, "long").integers(0, 256, 83).tolist()), SamplingParams(9), ())
    engine = Engine(model("chunked"), TOKENIZER, 0, 1, False, even, page=4)
    engine.pages.limit = engine.pages.needed(92)
    got = engine.generate([asked])
    assert engine.pages.chunk == 8
    assert {kind: pool.count for kind, pool in engine.pages.pools.items()} == {True: 2, False: 23}
    assert worst(model("chunked"), [asked], got) < CLOSE


@pytest.mark.parametrize("seed", [4, 18, 24])
def test_pieces_of_many_prompts_find_room_where_it_is_scarce(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that stand in different places of a chunk, with pieces longer than one."""
    monkeypatch.setattr("puna.engine.reading.PREFILL", 12)
    for pages in (9, 12, 20):
        engine = made("chunked", seed % 2 == 0, pages, 1 + seed % 7)
        check(engine, live(engine, seed, 25))


def test_a_cancelled_row_frees_its_pages_at_once() -> None:
    engine = made("chunked", True, 100)
    rows = [
        engine.add(Request(tuple(range(20 + i)), SamplingParams(60), ("c", i))) for i in range(4)
    ]
    for _ in range(5):
        engine.step()
    used = engine.pages.used
    rows[1].cancelled = rows[2].cancelled = True
    engine.step()
    assert engine.pages.used < 0.6 * used
    assert [r.finish for r in rows] == ["", "cancelled", "cancelled", ""]
    while not engine.idle:
        engine.step()
    assert worst(model("chunked"), [r.request for r in (rows[0], rows[3])],
                 [r.completion() for r in (rows[0], rows[3])]) < CLOSE  # fmt: skip


def test_a_request_begins_with_what_another_has_read() -> None:
    """Full pages are shared, the last is copied; the same answers as without."""
    head = tuple(stream(0, "head").integers(0, 256, 50).tolist())
    given = [Request((*head, 7, i), SamplingParams(12), ("h", i)) for i in range(5)]
    for shape in SHAPES:
        engine = made(shape, True, 200)
        engine.generate(given[:1])
        before = engine.prefilled_tokens
        got = engine.generate(given[1:])
        read = engine.prefilled_tokens - before
        # a chunk's local pages are gone where a sequence has left it: then from its start
        assert read <= 4 * (2 if shape == "dense" else 2 + 8), (shape, read)
        alone = made(shape, False, 200).generate(given[1:])
        assert [c.ids for c in got] == [c.ids for c in alone]
        assert worst(model(shape), given[1:], got) < CLOSE


def test_weights_in_flight_are_told_token_by_token() -> None:
    engine = made("dense", True, 200)
    row = engine.add(Request((1, 2, 3), SamplingParams(20), ("v",)))
    for _ in range(8):
        engine.step()
    engine.load_weights({k: v * 1.05 for k, v in engine.model.state_dict().items()}, 9)
    while not engine.idle:
        engine.step()
    done = row.completion()
    assert done.versions == (0,) * 8 + (9,) * 12
    assert done.version == 0
    old = torch.tensor(done.logprobs[:8])
    ids = torch.tensor([[1, 2, 3, *done.ids]])
    with torch.no_grad():
        logits = model("dense").logits(model("dense")(ids[:, :-1]))[0].log_softmax(-1)
    expected = logits.gather(1, ids[0, 1:, None])[2:, 0]
    assert (expected[:8] - old).abs().max() < CLOSE
    assert (expected[8:] - torch.tensor(done.logprobs[8:])).abs().max() > 100 * CLOSE
    assert engine.kept.bytes == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_mates_are_nothing_to_the_last_bit(shape: str, threads: int) -> None:
    """Deterministic, each request alone and all together at random times: the same bits."""

    def engine() -> Engine:
        return Engine(model(shape), TOKENIZER, 0, 6, False, True, 1 << 30, 8)

    draw = stream(3, "mates")
    given = [r for i in range(20) for r in asked(draw, i)]
    try:
        torch.set_num_threads(threads)
        alone = [engine().generate([r])[0] for r in given]
        together = engine()
        rows: list[Running] = []
        while len(rows) < len(given) or not together.idle:
            if len(rows) < len(given) and draw.random() < 0.6:
                rows.append(together.add(given[len(rows)]))
            together.step()
    finally:
        torch.set_num_threads(1)
    got = [r.completion() for r in rows]
    assert [c.ids for c in got] == [c.ids for c in alone]
    assert [c.logprobs for c in got] == [c.logprobs for c in alone]
    assert together.pages.used == 0
    assert worst(model(shape), given, got) < CLOSE
    free = [made(shape, True, 200).generate([r])[0] for r in given]
    assert [c.logprobs for c in free] != [c.logprobs for c in alone]  # the bits do depend on shapes
