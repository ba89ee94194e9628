"""The engine's way on a GPU, kernels interpreted, beside its way on a processor: the same texts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")

from puna.engine.ahead import Ahead
from puna.engine.batch import Batch
from puna.engine.captured import Captured
from puna.engine.local import Engine, Request, Running
from puna.engine.policy import Completion, SamplingParams
from puna.models.config import ModelConfig
from puna.models.presets import build

CONFIG = ModelConfig(
    "llama4", 120, 64, 2, 4, 2, 16, 64, expert_size=64, num_experts=3, moe_every=2,
    attention_chunk=16, nope_every=2, qk_norm=True, max_positions=128,
)  # fmt: skip
PAGE = 8


class Ids:
    """As much of a tokenizer as the engine asks for; 7 ends a text."""

    vocab_size = 120

    def token(self, name: str) -> str | None:
        return "." if name == "eot" else None

    def special(self, name: str) -> int:
        return 7


def engine(ahead: bool, slots: int = 8, memory: int | None = None, seed: int = 0) -> Engine:
    """One that decodes by kernels, or one that does not."""
    model = build(CONFIG, 0)
    with torch.no_grad():
        model.head.weight *= 20  # texts that differ, and end
    made = Engine(model, Ids(), seed, slots=slots, memory=memory, page=PAGE)
    if ahead:
        made.captured = Captured(model, made.pages)
    return made


def requests(count: int, new: int = 12, **params: float) -> list[Request]:
    random = torch.Generator().manual_seed(3)
    made = []
    for i in range(count):
        length = int(torch.randint(1, 30, (1,), generator=random))
        ids = torch.randint(8, 120, (length,), generator=random).tolist()
        drawn = SamplingParams(new - i % 3, **params)
        made.append(Request(tuple(ids), drawn, ("t", i)))
    return made


def same(found: Sequence[Completion], want: Sequence[Completion]) -> None:
    for a, b in zip(found, want, strict=True):
        assert a.ids == b.ids
        assert a.finish == b.finish
        assert a.versions == b.versions
        assert max(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)) < 1e-4
        assert (a.routes == b.routes).all()
        assert a.routes.shape == b.routes.shape


@pytest.mark.parametrize(("heat", "slots"), [(0.0, 8), (1.0, 2)])
def test_the_same_texts(heat: float, slots: int) -> None:
    asked = requests(5, new=8, temperature=heat)
    other = engine(True, slots)
    found, want = other.generate(asked), engine(False, slots).generate(asked)
    same(found, want)
    assert len({c.ids for c in want}) == 5
    assert other.generated_tokens == sum(len(c.ids) for c in found)


def test_groups_share_their_prompt() -> None:
    asked = [
        Request(r.prompt_ids, r.params, ("g", i, j))
        for i, r in enumerate(requests(2))
        for j in range(3)
    ]
    same(engine(True).generate(asked), engine(False).generate(asked))


def test_scarce_memory_puts_rows_off() -> None:
    """What has to be read again draws the same."""
    asked = requests(4, new=14)
    whole = engine(False).generate(asked)
    roomy = engine(True)
    limit = 2 * roomy.pages.needed(44)
    tight = engine(True, memory=limit)
    put_off: list[Running] = []
    tight.waiting = _Counted(put_off)
    found = tight.generate(asked)
    assert [c.ids for c in found] == [c.ids for c in whole]
    assert put_off


class _Counted(deque[Running]):
    """A queue that notes what comes back to it."""

    def __init__(self, noted: list[Running]) -> None:
        super().__init__()
        self.noted = noted

    def extendleft(self, rows: Iterable[Running]) -> None:
        back = list(rows)
        self.noted += back
        super().extendleft(back)


def test_other_parameters_take_the_other_way_and_back() -> None:
    """Cuts are not drawn by the kernels: while such a row lives, all rows go the plain way."""
    plain, cut = requests(3, new=12), requests(5, new=5, top_k=5)[3:]
    kinds, results = [], []
    for ahead in (True, False):
        made = engine(ahead)
        rows = [made.add(r) for r in plain]
        for _ in range(4):
            made.step()
        rows += [made.add(r) for r in cut]
        while not made.idle:
            made.step()
            kinds.append(type(made.batch) if ahead else None)
        results.append([r.completion() for r in rows])
    same(*results)
    assert Ahead in kinds
    assert Batch in kinds


def test_cancelled_rows_leave_and_their_pages_come_back() -> None:
    made = engine(True)
    rows = [made.add(r) for r in requests(4, new=12)]
    for _ in range(3):
        made.step()
    rows[1].cancelled = True
    heard = len(rows[1].ids)
    while not made.idle:
        assert rows[1] not in made.step()
    assert rows[1].finish == "cancelled"
    assert len(rows[1].ids) == heard
    want = engine(False).generate([r.request for r in rows])
    for i in (0, 2, 3):
        assert rows[i].completion().ids == want[i].ids
    made.step()
    made.kept.forget()
    assert made.pages.used == 0


def test_new_weights_are_used_from_the_next_token_on() -> None:
    made, asked = engine(True), requests(3, new=10, temperature=0.0)
    rows = [made.add(r) for r in asked]
    while min(len(r.ids) for r in rows) < 5:
        made.step()
    other = build(CONFIG, 1)
    made.load_weights(dict(other.state_dict()), 1)
    heard = [len(r.ids) for r in rows]
    while not made.idle:
        made.step()
    old = engine(False).generate(asked)
    for row, count, before in zip(rows, heard, old, strict=True):
        done = row.completion()
        assert done.versions == (0,) * count + (1,) * (len(done.ids) - count)
        assert done.ids[:count] == before.ids[:count]
        if count < len(done.ids):
            assert done.ids[count:] != before.ids[count:]
    # The keys are the old weights': a processor's engine that changes at the same token agrees.
    plain = engine(False)
    same_rows = [plain.add(r) for r in asked]
    while any(len(r.ids) < n for r, n in zip(same_rows, heard, strict=True)):
        plain.step()
    assert [len(r.ids) for r in same_rows] == heard
    plain.load_weights(dict(build(CONFIG, 1).state_dict()), 1)
    while not plain.idle:
        plain.step()
    assert [r.completion().ids for r in same_rows] == [r.completion().ids for r in rows]


def test_every_token_is_told_once() -> None:
    made = engine(True, slots=3)
    rows = [made.add(r) for r in requests(5, new=7)]
    told: dict[int, int] = {}
    while not made.idle:
        for row in made.step():
            told[id(row)] = told.get(id(row), 0) + 1
            assert told[id(row)] == len(row.ids)
    assert all(told[id(r)] == len(r.ids) for r in rows)
