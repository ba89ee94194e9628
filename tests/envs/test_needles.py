"""needles: an independent reader finds what is asked; who does not read earns what is declared."""

from __future__ import annotations

import re

import pytest

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.envs.needles.env import Needles, NeedlesConfig, names, same
from puna.gym.registry import load_environment
from puna.gym.trajectory import Episode


def facts(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+) leads to (\w+)\.", text))


def follow(known: dict[str, str], word: str) -> list[str]:
    path = []
    while word in known:
        path.append(f"{word} leads to {known[word]}.")
        word = known[word]
    return path


def asked(text: str) -> str:
    (word,) = re.findall(r"Where does (\w+) lead", text)
    return str(word)


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("words", [0, 300, 4000])
def test_following_the_facts_gives_the_answer(hops: int, words: int) -> None:
    env = Needles(NeedlesConfig(words=words, hops=hops))
    for split in ("train", "test"):
        for i in range(20):
            problem = env.task(split, i).hidden["problem"]
            known = facts(problem.prompt)
            assert len(known) == 8 * hops
            path = follow(known, asked(problem.prompt))
            assert len(path) == hops
            assert same(" ".join(path), problem.answer)
            assert same(" " + "\n ".join(path).upper().removesuffix("."), problem.answer)
            for i, fact in enumerate(path):
                ends = set(known.values()) - {fact.split()[-1].removesuffix(".")}
                for other in ends:
                    told = [*path[:i], f"{fact.split()[0]} leads to {other}.", *path[i + 1 :]]
                    assert not same(" ".join(told), problem.answer)
            assert abs(len(problem.prompt.split()) - words - 32 * hops) < 20


def test_any_chain_earns_what_is_declared() -> None:
    env = Needles(NeedlesConfig(words=0, hops=2))
    hits = 0
    for i in range(2000):
        problem = env.task("test", i).hidden["problem"]
        known = facts(problem.prompt)
        first = next(word for word in known if word not in known.values())
        hits += same(" ".join(follow(known, first)), problem.answer)
    assert hits / 2000 == pytest.approx(env.chance, abs=0.02)
    assert env.chance == 1 / 8


def test_no_word_of_a_fact_is_in_both_splits() -> None:
    assert not set(names("train")) & set(names("test"))
    env = Needles()
    for i in range(50):
        known = facts(env.task("test", i).hidden["problem"].prompt)
        assert not {*known, *known.values()} & set(names("train"))


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_fact_stands_where_it_was_asked_to(depth: float) -> None:
    env = Needles(NeedlesConfig(words=3000, depth=depth))
    for i in range(20):
        text = env.task("test", i).hidden["problem"].prompt
        at = text.index(f"{asked(text)} leads to") / (len(text) - 50)
        assert at == pytest.approx(depth, abs=0.03)


@pytest.mark.parametrize("told", [5, 4, 0])
def test_further_questions_follow_the_answers_and_all_must_be_right(told: int) -> None:
    env = load_environment("needles", {"words": 60, "questions": 5, "hops": 2})
    task = env.task("test", 3)
    session = env.start(task, None, None)
    spoken = []
    while (turn := session.next()) is not None:
        known, word = facts(turn.messages[0].text), asked(turn.messages[-1].text)
        answer = " ".join(follow(known, word)) if len(spoken) < told else "no idea"
        spoken.append(("agent", Message.assistant(answer)))
        session.take(turn, spoken[-1][1])
    assert len(spoken) == 5
    ends = [Episode(task.id, tuple(spoken)), Episode(task.id, tuple(spoken), ended="tokens")]
    whole, cut = (v["agent"].value for v in env.judge(ends, task.hidden, None))
    assert (whole, cut) == (float(told == 5), 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("words", -1), ("chains", 1), ("hops", 11), ("depth", 1.5), ("questions", 9)],
)
def test_a_text_that_cannot_be_is_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{setting} is {value}"):
        load_environment("needles", {setting: value})
