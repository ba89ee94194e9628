"""What a proposer is asked for: classes by pass rate, examples of every class."""

from __future__ import annotations

from collections import Counter

import pytest

from puna.core.messages import Message
from puna.gym.proposer import CLASSES, difficulty, wanted
from puna.gym.task import Task


@pytest.mark.parametrize(
    ("passed", "tried", "name"),
    [
        *((10, 10, "easy"), (8, 10, "easy"), (79, 100, "medium"), (2, 10, "medium")),
        *((19, 100, "hard"), (1, 1000, "hard"), (0, 10, "impossible"), (0, 0, "")),
    ],
)
def test_the_classes_of_the_paper(passed: int, tried: int, name: str) -> None:
    assert difficulty(passed, tried) == name


def pool(**sizes: int) -> list[tuple[Task, str]]:
    return [
        (Task(f"{name}{i}", (Message.user("?"),), f"{name}{i}"), name)
        for name, size in sizes.items()
        for i in range(size)
    ]


def test_examples_are_of_all_classes_alike_as_far_as_there_are() -> None:
    some = pool(easy=50, medium=2, hard=50, impossible=50)
    seen = Counter(label for _, label in wanted(some, 3, 0, shots=12).examples)
    assert seen["medium"] == 2
    assert sorted(seen.values()) == [2, 3, 3, 4]
    assert len(wanted(pool(easy=3), 0, 0, shots=12).examples) == 3
    assert wanted([], 0, 0, shots=12).examples == ()


def test_targets_are_drawn_evenly_and_by_number_alone() -> None:
    some = pool(easy=9)
    targets = Counter(wanted(some, n, 5, shots=1).target for n in range(400))
    assert set(targets) == set(CLASSES)
    assert min(targets.values()) > 70
    assert wanted(some, 7, 5, shots=4) == wanted(some, 7, 5, shots=4)


def test_the_controls_take_labels_away_and_examples_alike() -> None:
    some = pool(easy=9, hard=9)
    bare = wanted(some, 7, 5, shots=4, labels=False)
    assert bare.target == ""
    assert {label for _, label in bare.examples} == {""}
    assert len(bare.examples) == 4


def shown(number: int, fixed: bool) -> tuple[str, ...]:
    found = wanted(pool(easy=9, hard=9), number, 5, shots=4, fixed=fixed)
    return tuple(task.key for task, _ in found.examples)


def test_a_fixed_prompt_shows_the_same_for_every_number() -> None:
    assert len({shown(n, fixed=False) for n in range(20)}) > 10
    assert len({shown(n, fixed=True) for n in range(20)}) == 1
