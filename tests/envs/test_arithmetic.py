"""arithmetic: right answers, exact judging, disjoint splits, tasks that depend on their index."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.envs.arithmetic.env import Arithmetic, ArithmeticConfig, evaluate
from puna.gym.trajectory import Episode

numbers = st.integers(0, 999).map(str)
expressions = st.lists(st.tuples(st.sampled_from("+-*"), numbers), min_size=1, max_size=7)


@given(numbers, expressions)
def test_the_value_is_pythons(first: str, rest: list[tuple[str, str]]) -> None:
    text = first + "".join(op + x for op, x in rest)
    assert evaluate(text) == eval(text)


@pytest.mark.parametrize(
    ("text", "value"), [("47+8", 55), ("2-9", -7), ("2+3*4-5*6", -16), ("0*9-0", 0)]
)
def test_by_hand(text: str, value: int) -> None:
    assert evaluate(text) == value


def test_tasks_depend_on_split_index_and_seed_alone() -> None:
    env = Arithmetic()
    first = [env.task("train", i) for i in range(30)]
    assert [env.task("train", i) for i in reversed(range(30))] == first[::-1]
    other = Arithmetic(seed=1)
    assert [other.task("train", i).key for i in range(30)] != [t.key for t in first]
    code = (
        "from puna.envs.arithmetic.env import Arithmetic as A; e = A();"
        "print([e.task('train', i).digest for i in range(30)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([t.digest for t in first])


def test_test_problems_are_all_different_and_cheap_to_find() -> None:
    begun = time.process_time()
    env = Arithmetic()
    assert env.count("test") == 1500
    keys = [env.task("test", i).key for i in range(1500)]
    assert time.process_time() - begun < 2
    assert len(set(keys)) == 1500  # so the first, for scores, share none with the last
    assert len({env.task("train", i).key for i in range(1500)}) < 1400  # train repeats
    again = Arithmetic()
    assert [again.task("test", i).key for i in (1499, 7)] == [keys[1499], keys[7]]
    two_digits = [sum(len(k) == 6 for k in part) / 500 for part in (keys[:500], keys[-500:])]
    assert abs(two_digits[0] - two_digits[1]) < 0.15  # no stretch is harder than another


def test_a_small_space_says_how_many_it_has() -> None:
    env = Arithmetic(ArithmeticConfig(digits=1))
    count = env.count("test")
    keys = {env.task("test", i).key for i in range(count)}
    assert 50 < count == len(keys) < 120  # of 200 problems
    assert keys == {k for a in range(10) for b in range(10) for op in "+-"
                    if env.belongs(k := f"{a}{op}{b}=") == "test"}  # fmt: skip
    with pytest.raises(IndexError):
        env.task("test", count)


def test_train_and_test_are_disjoint_whatever_the_seed() -> None:
    envs = [Arithmetic(seed=s) for s in range(3)]
    train = {env.task("train", i).key for env in envs for i in range(700)}
    test = {env.task("test", i).key for env in envs for i in range(300)}
    assert len(train) > 500
    assert len(test) > 100
    assert not train & test


def outcome(env: Arithmetic, task: Any, answer: str) -> Scored:
    episode = Episode(task.id, (("agent", Message.assistant(answer)),))
    (verdict,) = env.judge([episode], task.hidden, None)  # type: ignore[arg-type]
    return verdict["agent"]  # type: ignore[return-value]


def test_exactly_the_value_and_nothing_else() -> None:
    env = Arithmetic(ArithmeticConfig(terms=4, digits=3, operators="+-*"))
    for i in range(40):
        task = env.task("test", i)
        right = str(eval(task.messages[0].text.rstrip("=")))
        assert outcome(env, task, right) == outcome(env, task, f" {right}\n") == Scored(1.0, True)
        near = str(int(right) + 1)
        for wrong in (near, right + ".0", "+" + right, right + right, "0" + right, ""):
            assert outcome(env, task, wrong) == Scored(0.0, False), wrong
        for name, scripts in env.cheats(task).items():
            said = scripts["agent"](task.messages).text
            assert outcome(env, task, said) == Scored(0.0, False), name


def test_an_answer_that_was_cut_off_earns_nothing() -> None:
    env = Arithmetic()
    task = env.task("test", 0)
    said = (("agent", env.oracle(task)["agent"](task.messages)),)
    verdicts = env.judge(
        [Episode(task.id, said), Episode(task.id, said, {}, "tokens")], task.hidden, None
    )  # type: ignore[arg-type]
    assert [v["agent"].value for v in verdicts] == [1.0, 0.0]  # type: ignore[union-attr]
    assert "cut off" in str(verdicts[1]["agent"])


def test_settings_shape_the_problems() -> None:
    env = Arithmetic(ArithmeticConfig(terms=3, digits=1, operators="*"))
    texts = [env.task("train", i).messages[0].text for i in range(60)]
    assert {t.count("*") for t in texts} == {1, 2}
    assert all(set(t) <= set("0123456789*=") for t in texts)
    assert all(len(x) == 1 for t in texts for x in t.rstrip("=").split("*"))
    assert {env.task("train", i).tags["terms"] for i in range(60)} == {"2", "3"}


@pytest.mark.parametrize(
    "settings",
    [
        *({"terms": x} for x in (1, 9)),
        *({"digits": x} for x in (0, 10)),
        *({"operators": x} for x in ("", "/")),
    ],
)
def test_settings_without_problems_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ArithmeticConfig(**settings)


def test_tasks_that_are_not_there() -> None:
    env = Arithmetic()
    for split, index in (("test", 10_000), ("test", -1), ("valid", 0)):
        with pytest.raises((IndexError, KeyError)):
            env.task(split, index)
