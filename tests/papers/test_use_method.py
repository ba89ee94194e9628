"""USE's encoder: three forms that agree, pads that change nothing, hand-worked retention."""

import math

import pytest
import torch

from puna.papers.use.method import (
    PAD,
    Encoder,
    Shape,
    decay_rates,
    retain_chunk,
    retain_parallel,
    retain_recurrent,
    rotate,
)

SHAPE = Shape(events=30, width=16, layers=2, heads=2)


def encoder(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return Encoder(SHAPE).to(dtype).eval()


def lives(users=3, events=130, seed=1):
    made = torch.Generator().manual_seed(seed)
    return torch.randint(SHAPE.events, (users, events), generator=made)


def difference(a, b):
    return float((a.embedding() - b.embedding()).abs().max())


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_chunks_of_any_length_are_the_parallel_form(chunk, dtype, near):
    model, ids = encoder(dtype), lives()
    whole = model.encode(ids, chunk=130)
    parts = model.encode(ids, chunk=chunk)
    assert difference(whole, parts) < near
    assert torch.allclose(whole.layers_LBHKK, parts.layers_LBHKK, rtol=0, atol=50 * near)
    # Without the state that a chunk leaves to the next, they differ by far more.
    alone = sum(model.encode(part).total_BD for part in ids.split(chunk, dim=1)) / 130
    assert float((alone - whole.embedding()).abs().max()) > 100 * near


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_recurrent_form_is_the_parallel_form(dtype, near):
    model, ids = encoder(dtype), lives()
    whole = model.encode(ids, chunk=130)
    events = model.encode(ids, retain=retain_recurrent)
    assert difference(whole, events) < near
    assert torch.allclose(whole.layers_LBHKK, events.layers_LBHKK, rtol=0, atol=50 * near)


def test_what_is_trained_is_what_is_encoded():
    model, ids = encoder(), lives()
    mean = model.hidden(ids).mean(dim=1).detach()
    assert float((mean - model.encode(ids).embedding()).abs().max()) < 1e-12


def test_reading_on_from_a_state_is_reading_the_whole_life():
    model, ids = encoder(torch.float32), lives(events=700)
    state = None
    for period in ids.split(250, dim=1):
        state = model.encode(period, state)
    whole = model.encode(ids)
    assert difference(state, whole) < 1e-5
    forgotten = model.encode(ids[:, 500:])
    assert difference(forgotten, whole) > 1e-3


def test_retention_by_hand():
    # Two events, one head of width 2; gamma = 1/2 and 1 for the state before them.
    q = k = v = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    rate, real = torch.tensor([math.log(0.5)]), torch.ones(1, 2, dtype=torch.bool)
    before = torch.tensor([[[[4.0, 0.0], [0.0, 8.0]]]])
    # Inner: y1 = v1; y2 = 0.5 (q2 k1) v1 + (q2 k2) v2 = (0.5, 0) + (2, 2).
    # From before: 0.5 q1 R = (2, 0); 0.25 q2 R = (1, 2).
    # State: R / 4 + k1 v1 / 2 + k2 v2.
    for retain in (retain_chunk, retain_recurrent):
        y, after = retain(q, k, v, rate, real, before)
        assert torch.allclose(y, torch.tensor([[[[3.0, 0.0], [3.5, 4.0]]]]))
        assert torch.allclose(after, torch.tensor([[[[2.5, 1.0], [1.0, 3.0]]]]))
    y = retain_parallel(q, k, v, rate, real)
    assert torch.allclose(y, torch.tensor([[[[1.0, 0.0], [2.5, 2.0]]]]))


def test_decay_goes_from_a_memory_of_32_events_to_one_of_512():
    gamma = torch.exp(decay_rates(3))
    assert gamma.tolist() == pytest.approx([1 - 1 / 32, 1 - 1 / 128, 1 - 1 / 512])


def test_pads_anywhere_change_nothing():
    model, ids = encoder(), lives(users=1, events=40)
    holes = torch.full((1, 60), PAD)
    places = [t for t in range(60) if t % 3 != 1]
    holes[0, places] = ids[0]
    plain = model.encode(ids)
    for retain in (retain_chunk, retain_recurrent):
        for chunk in (7, 60):
            padded = model.encode(holes, chunk=chunk, retain=retain)
            assert difference(plain, padded) < 1e-12
            assert torch.allclose(plain.layers_LBHKK, padded.layers_LBHKK, rtol=0, atol=1e-10)
    assert int(padded.seen_B[0]) == 40


def test_rows_of_different_lengths_are_read_as_if_alone():
    model, ids = encoder(), lives(users=3, events=50)
    short = ids.clone()
    short[1, 20:] = PAD
    together = model.encode(short).embedding()
    for row, length in ((0, 50), (1, 20), (2, 50)):
        alone = model.encode(ids[row : row + 1, :length]).embedding()[0]
        assert float((together[row] - alone).abs().max()) < 1e-12


def test_users_who_did_nothing_have_a_vector_of_zeros():
    model = encoder()
    nothing = model.encode(torch.full((2, 5), PAD))
    assert nothing.embedding().abs().max() == 0
    assert nothing.seen_B.tolist() == [0, 0]
    assert model.begin(1).embedding().abs().max() == 0
    assert model.encode(torch.zeros(1, 0, dtype=torch.int64)).seen_B.tolist() == [0]


@pytest.mark.parametrize("wrong", [30, -2, 10**9])
def test_an_unknown_event_is_named_by_row_and_place(wrong):
    ids = lives(users=2, events=5)
    ids[1, 3] = wrong
    with pytest.raises(ValueError, match=rf"row 1, event 3: {wrong} is no event type"):
        encoder().encode(ids)


def test_a_state_keeps_32_bits_in_a_model_of_16():
    narrow = encoder(torch.bfloat16)
    state = narrow.encode(lives())
    assert state.layers_LBHKK.dtype == torch.float32
    assert difference(state, narrow.encode(lives(), chunk=7)) < 0.02


def test_places_far_away_turn_as_they_should():
    # 10^12 events into a life: q at n and k at m still meet at the angle of n - m.
    x = torch.randn(1, 1, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near, far = (rotate(x, torch.tensor([[n, n + 5]])) for n in (0, 10**12))
    dots = [float((y[0, 0, 0] * y[0, 0, 1]).sum()) for y in (near, far)]
    assert dots[0] == pytest.approx(dots[1], abs=1e-3)
    assert abs(dots[0] - float((x[0, 0, 0] * x[0, 0, 1]).sum())) > 0.1


def test_a_fingerprint_tells_weights_and_shapes_apart():
    one, same, other = encoder(), encoder(), encoder(seed=5)
    assert one.fingerprint() == same.fingerprint()
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() != encoder(torch.float32).fingerprint()


@pytest.mark.parametrize("sizes", [(30, 16, 2, 3), (30, 4, 2, 2), (0, 16, 2, 2), (30, 18, 1, 6)])
def test_impossible_shapes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"width|at least 1"):
        Shape(*sizes)
