"""Parts learned from side by side: the same gradients, to the bit, as one after the other."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

from puna.models.presets import build, preset
from puna.train import lanes as module
from puna.train.lanes import Lanes
from puna.train.loss import next_token_loss


@pytest.fixture
def alone():
    """One thread outside of lanes, as inside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parts_of(count: int) -> list[torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return [torch.randint(0, 512, (3, 70 + i), generator=drawn) for i in range(count)]


def learn(model, count: int, parts) -> list:
    def read(part):
        loss = next_token_loss(model, model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())
        return loss, (len(part[0]), threading.current_thread().name)

    found = Lanes(model, count).backward(parts, read)
    assert torch.get_num_threads() == 1
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_are_those_of_one_lane(alone, count):
    models = [build(preset("nano"), 0) for _ in range(2)]
    parts = parts_of(5)
    for _ in range(2):  # the second time there are gradients already
        kept = [learn(m, n, parts) for m, n in zip(models, (1, count), strict=True)]
    assert [k[0] for k in kept[1]] == [len(p[0]) for p in parts]
    assert {k[1] for k in kept[0]} == {"MainThread"}
    assert "MainThread" not in {k[1] for k in kept[1]}
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
        assert a.grad.stride() == b.grad.stride()


@pytest.mark.parametrize("count", [2, 3])
def test_lanes_work_at_the_same_time(alone, count):
    meeting = threading.Barrier(count, timeout=60)

    def work(part):
        meeting.wait()
        assert torch.get_num_threads() == 1
        return part + 1

    lanes = Lanes(build(preset("nano"), 0), count)
    parts = [torch.full((2,), float(i)) for i in range(2 * count)]
    assert [float(x[0]) for x in lanes.score(parts, work)] == [i + 1 for i in range(2 * count)]


def test_what_is_scored_equals_what_is_learned_from(alone):
    model, parts = build(preset("nano"), 0), parts_of(3)
    learned = [model(part) for part in parts]
    for count in (1, 2):
        scored = Lanes(model, count).score(parts, model)
        assert not any(x.requires_grad for x in scored)
        assert all(torch.equal(a, b) for a, b in zip(scored, learned, strict=True))


def test_what_does_not_learn_gets_no_gradient(alone):
    model = build(preset("nano"), 0)
    model.embed.requires_grad_(False)
    learn(model, 2, parts_of(4))
    assert model.embed.grad is None
    assert all(p.grad is not None for p in model.layers.parameters())


def test_an_error_ends_all_lanes(alone):
    """Those that were at work have ended when it is raised, and the next call works."""
    model, parts = build(preset("nano"), 0), parts_of(6)
    going = threading.Semaphore(0)
    done = []

    def work(part):
        if part is parts[1]:
            going.release()
            raise MemoryError("no more")
        if part is parts[2]:
            assert going.acquire(timeout=60)
        loss = model(part).sum()
        done.append(len(part[0]))
        return loss, 0

    lanes = Lanes(model, 2)
    with pytest.raises(MemoryError, match="no more"):
        lanes.backward(parts, work)
    before = sorted(done)
    assert 70 in before
    assert 75 not in before  # the last was never begun
    assert [len(x) for x in lanes.score(parts, lambda p: p[0])] == [len(p[0]) for p in parts]
    assert sorted(done) == before
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_as_before(fails):
    before = torch.get_num_threads()
    model, seen = build(preset("nano"), 0), []

    def work(part):
        seen.append(torch.get_num_threads())
        if fails:
            raise MemoryError
        return part

    torch.set_num_threads(3)
    try:
        with pytest.raises(MemoryError) if fails else contextlib.nullcontext():
            Lanes(model, 2).score([torch.ones(1)] * 4, work)
        assert torch.get_num_threads() == 3
        assert set(seen) == {1}
        names = {thread.name for thread in threading.enumerate()}
        assert not any(name.startswith("puna-lane") for name in names)
    finally:
        torch.set_num_threads(before)


def test_large_models_use_all_threads_for_each_product(monkeypatch):
    model = build(preset("nano"), 0)
    assert Lanes(model, 4).count == 4
    assert Lanes(model, 99).count == module.MOST
    monkeypatch.setattr(module, "LARGEST", 1000)
    assert Lanes(model, 4).count == 1


@pytest.mark.parametrize(("parts", "even"), [(1, 3), (3, 3), (4, 6)])
def test_every_lane_has_as_many_parts(parts, even):
    assert Lanes(build(preset("nano"), 0), 3).even(parts) == even
