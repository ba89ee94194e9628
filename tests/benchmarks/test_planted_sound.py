"""The sound environments are sound: oracle 1, nothing 0, no constant beats the declared chance."""

from __future__ import annotations

import collections
import math

import pytest

from benchmarks.planted import classes, sound, sound2, sound3
from benchmarks.planted.play import call, done, script
from benchmarks.planted.playing import outcome, reward
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.gym.environment import say
from puna.gym.task import SPLITS

pytestmark = pytest.mark.slow  # they prove a benchmark's ground, not the product

NAMES = {cls.name: cls for folder in ("sound", "sound2", "sound3") for cls in classes(folder)}
TEXTS = (
    *("", "0", "1", "5", "50", "yes", "no", "true", "false", "A", "B", "C", "D", "unknown"),
    *("REFUSED", "I don't know.", "zero", "positive", "negative", "monday", "[null]", "{}", "?"),
)
CODES = (
    *("", "pass", "import sys\nsys.exit(0)", "def f(x): raise ValueError", "print(0)"),
    *(f"def f(x): return {v}" for v in ("x", "0", "[]", "None", "x[:1] if x else x")),
)
ODD = ("nan", "inf", "9" * 5000, "[" * 5000, "\ud800", "\0", "１２", "a\u200bb", "{}" * 99)


def words_of_the_prompt(messages):
    """Trivial policies that copy from what was asked."""
    words = messages[0].text.replace("?", " ").split()
    text = messages[0].text
    yield from (text, text.rpartition(":")[2].strip(), words[-1], words[0])


def trivial(env, tasks):
    """Policies that solve nothing: constants, frequent references, copies, fixed calls."""
    texts = list(CODES if env.tier == "jail" else TEXTS)
    if env.tier != "jail" and "problem" in tasks[0].hidden:
        known = collections.Counter(t.hidden["problem"].answer for t in tasks)
        texts += [answer for answer, _ in known.most_common(4)]
    yield from (say(text) for text in texts)
    for i in range(4):
        yield lambda m, i=i: Message.assistant(list(words_of_the_prompt(m))[i])
    for tool in tasks[0].tools:
        yield from fixed_calls(tool["function"])


def fixed_calls(function):
    """The same call once or for ever, with arguments of the right types."""
    kinds = {"string": ("", "a"), "integer": (1, 2, 500), "boolean": (True,)}
    fields = function["parameters"]["properties"]
    for i in range(3):
        chosen = {}
        for key, field in fields.items():
            values = field.get("enum") or kinds[field["type"]]
            chosen[key] = values[i % len(values)]
        yield lambda m, chosen=chosen: call(function["name"], **chosen)
        yield script([call(function["name"], **chosen), done()])


def test_there_are_forty_and_twice_twenty_with_different_names():
    assert len(sound()) == len(classes("sound")) == 40
    assert len(sound2()) == len(classes("sound2")) == 20
    assert len(sound3()) == len(classes("sound3")) == 20
    assert len(NAMES) == 80


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_scores_one(name, split, made):
    env = made(NAMES[name])
    for i in range(min(20, env.count(split))):
        task = env.task(split, i)
        found = outcome(env, task, env.oracle(task)["agent"])
        assert isinstance(found, Scored)
        assert found.value == 1.0
        assert found.success


@pytest.mark.parametrize("name", NAMES)
def test_nothing_and_the_declared_cheats_score_zero(name, made):
    env = made(NAMES[name])
    for i in range(min(5 if env.tier == "jail" else 20, env.count("test"))):
        task = env.task("test", i)
        assert reward(env, task, say("")) == 0.0
        for cheat, scripts in env.cheats(task).items():
            assert reward(env, task, scripts["agent"]) == 0.0, cheat


@pytest.mark.parametrize("name", NAMES)
def test_the_best_trivial_policy_earns_the_declared_chance(name, made):
    env = made(NAMES[name])
    count = 15 if env.tier == "jail" else 200
    tasks = [env.task("train", i) for i in range(min(count, env.count("train")))]
    best, noise = 0.0, 0.0
    for policy in trivial(env, tasks):
        values = [reward(env, task, policy) for task in tasks]
        mean = sum(values) / len(values)
        if mean > best:
            best = mean
            variance = sum((v - mean) ** 2 for v in values) / len(values)
            noise = 3 * math.sqrt(variance / len(values))
    assert best <= env.chance + noise, f"chance is {env.chance}, best {best:.3f}"
    assert best >= env.chance - max(noise, 0.02) - 0.02, f"chance is {env.chance}, best {best:.3f}"


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_share_nothing_and_tasks_do_not_change(name, made):
    env, again = made(NAMES[name]), NAMES[name]()
    train = [env.task("train", i) for i in range(min(300, env.count("train")))]
    test = [env.task("test", i) for i in range(env.count("test"))]
    assert not {t.key for t in train} & {t.key for t in test}
    assert not {t.messages[0].text for t in train} & {t.messages[0].text for t in test}
    assert [again.task("train", t) .digest for t in (0, len(train) - 1)] == [
        train[0].digest, train[-1].digest]  # fmt: skip
    assert again.task("test", 0).digest == test[0].digest


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_repeats_and_bears_any_text(name, made):
    env = made(NAMES[name])
    task = env.task("train", 0)
    right = env.oracle(task)["agent"]
    assert {reward(env, task, right) for _ in range(3)} == {1.0}
    for text in ODD:
        assert reward(env, task, say(text)) <= max(0.9, env.chance)
