"""USE's objectives by hand, segments that never leak, and training that repeats exactly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.papers.use.method import PAD, Encoder, Shape
from puna.papers.use.objectives import (
    Training,
    future_labels,
    future_loss,
    loss,
    mean_hidden,
    next_loss,
    padded,
    same_user_loss,
    segments,
    train,
)

SHAPE = Shape(events=6, width=16, layers=1, heads=2)


def encoder(seed=0):
    torch.manual_seed(seed)
    return Encoder(SHAPE)


def test_future_labels_by_hand():
    labels, counts = future_labels(torch.tensor([[1, 2, 1, 0], [1, 0, 2, PAD]]), 2, 3)
    assert labels[0, 0].tolist() == [0, 1, 1]  # 2, 1 follow
    assert labels[0, 1].tolist() == [1, 1, 0]  # 1, 0 follow
    assert labels[1, 0].tolist() == [1, 0, 1]  # a pad after them does not erase event 0
    # Only places with two real events after them count.
    assert counts.tolist() == [[True, True, False, False], [True, False, False, False]]


def test_histories_shorter_than_the_window_count_nothing():
    ids = torch.tensor([[1, 2], [3, PAD]])
    _, counts = future_labels(ids, 5, 6)
    assert not counts.any()
    model = encoder()
    assert future_loss(model, model.hidden(ids), ids, 5).item() == 0.0


def test_future_loss_is_the_mean_over_counted_places():
    model, ids = encoder(), torch.tensor([[1, 2, 1, PAD], [0, 5, 5, 3]])
    model.future.weight.data.zero_()
    model.future.bias.data = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    # Three places count, W = 1: (1,2), (2,1), then (0,5), (5,5), (5,3): five; no label is event 0.
    wrong, even = math.log(1 + math.exp(2)), math.log(2)
    found = future_loss(model, model.hidden(ids), ids, 1).item()
    assert found == pytest.approx((wrong + 5 * even) / 6, rel=1e-6)


def test_next_loss_of_a_model_that_knows_nothing():
    model, ids = encoder(), torch.tensor([[1, 2, 1, PAD]])
    model.table.weight.data.zero_()
    assert next_loss(model, model.hidden(ids), ids).item() == pytest.approx(math.log(6), rel=1e-6)


def test_same_user_loss_by_hand():
    z = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    own, other = math.exp(1 / 0.07), 1.0
    assert same_user_loss(z, z).item() == pytest.approx(-math.log(own / (own + other)), abs=1e-6)
    assert same_user_loss(z, z.flip(0)).item() == pytest.approx(1 / 0.07, rel=1e-5)
    # One direction: z against every z'. The two differ where one z' is near both.
    skew = torch.tensor([[1.0, 0.0], [1.0, 0.2]])
    assert same_user_loss(z, skew).item() != pytest.approx(same_user_loss(skew, z).item(), abs=0.1)


def test_mean_hidden_leaves_pads_out():
    hidden = torch.tensor([[[2.0], [4.0], [90.0]], [[7.0], [8.0], [9.0]]])
    ids = torch.tensor([[1, 1, PAD], [PAD, PAD, PAD]])
    assert mean_hidden(hidden, ids).tolist() == [[3.0], [0.0]]


def test_the_sum_of_objectives_is_their_sum():
    model = encoder()
    ids = torch.randint(6, (8, 20), generator=torch.Generator().manual_seed(0))
    each = {o: loss(model, ids, Training(o)).item() for o in ("clm", "fbp", "sup")}
    assert loss(model, ids, Training("fbp+sup")).item() == pytest.approx(each["fbp"] + each["sup"])
    assert loss(model, ids, Training("clm+fbp+sup")).item() == pytest.approx(sum(each.values()))


@given(st.integers(2, 400), st.integers(1, 100), st.integers(0, 60), st.integers(0, 99))
def test_segments_are_apart_in_order_and_inside(events, length, gap, seed):
    history = np.arange(events)
    if events < gap + 2:
        with pytest.raises(ValueError, match="no two segments"):
            segments(history, length, gap, np.random.default_rng(seed))
        return
    a, b = segments(history, length, gap, np.random.default_rng(seed))
    assert len(a) == len(b) == min(length, (events - gap) // 2)
    assert b[0] - a[-1] > gap
    assert np.array_equal(a, np.arange(a[0], a[-1] + 1))
    assert np.array_equal(b, np.arange(b[0], b[-1] + 1))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"objective": "fbp+mlm"}, "no objective 'mlm'"),
        ({"gap": 4, "window": 5}, "a gap of 4"),
        ({"users": 1}, "users at least 2"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_training_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Training(**wrong)


def cycles(users=12, length=80):
    """Users who go round the six events, each by steps of their own: 1 or 5."""
    return [(np.arange(length) * (1 if u % 2 else 5) + u) % SHAPE.events for u in range(users)]


def test_training_learns_and_repeats_exactly():
    small = Training("fbp", steps=100, users=6, length=20, window=2, gap=2, lr=1e-2)
    one, again, other = encoder(), encoder(), encoder()
    last = train(one, cycles(), small, seed=0)
    assert last == train(again, cycles(), small, seed=0)
    train(other, cycles(), small, seed=1)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(one.table.weight, other.table.weight)
    # What follows is all but certain; who knows the shares of events alone loses H(1/3).
    ids = padded(cycles())
    fbp = future_loss(one, one.hidden(ids), ids, 2).item()
    assert fbp < 0.25 * (math.log(3) - 2 / 3 * math.log(2))


def test_too_few_long_histories_are_refused():
    with pytest.raises(ValueError, match="1 histories are long enough for a gap of 50"):
        train(encoder(), [np.arange(6), np.tile(np.arange(6), 20)], Training(steps=1), seed=0)
