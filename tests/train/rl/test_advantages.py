"""Advantages by hand and by their properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.train.rl.advantages import ALGORITHMS
from puna.train.rl.grpo import advantages as grpo
from puna.train.rl.raft import advantages as raft
from puna.train.rl.rloo import advantages as rloo

rewards = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=12)


def test_one_right_answer_of_four():
    # population deviation sqrt(3)/4: 0.75 / 0.4330 and -0.25 / 0.4330; the sample's gives 1.5
    assert grpo([1, 0, 0, 0]) == pytest.approx([1.7321, -0.5774, -0.5774, -0.5774], abs=1e-4)
    assert rloo([1, 0, 0, 0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert raft([1, 0, 0, 0]) == [1, 0, 0, 0]


def test_more_by_hand():
    assert rloo([3, 1, 2]) == pytest.approx([1.5, -1.5, 0])
    assert raft([2, 5, 5, 1]) == [0, 1, 1, 0]
    assert grpo([2, 4]) == pytest.approx([-1, 1], abs=1e-5)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_equal_rewards_teach_nothing(name):
    assert ALGORITHMS[name]([0.5] * 4) == [0] * 4
    assert ALGORITHMS[name]([0.5]) == [0]


@given(rewards, st.floats(-50, 50), st.floats(0.5, 20))
def test_grpo_knows_neither_offset_nor_scale(values, offset, scale):
    if max(values) - min(values) > 0.1:
        moved = grpo([v * scale + offset for v in values])
        assert moved == pytest.approx(grpo(values), abs=1e-3)


@given(rewards)
def test_advantages_sum_to_zero_and_follow_the_rewards(values):
    for name in ("grpo", "rloo"):
        found = ALGORITHMS[name](values)
        assert sum(found) == pytest.approx(0, abs=1e-6 * max(1, *map(abs, values)))
        assert found.index(max(found)) == values.index(max(values))


@given(rewards)
def test_rloo_is_the_reward_minus_the_mean_of_the_others(values):
    for i, found in enumerate(rloo(values)):
        others = values[:i] + values[i + 1 :]
        assert found == pytest.approx(values[i] - sum(others) / len(others), abs=1e-9)
