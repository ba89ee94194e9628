"""skills: another program finds the same answers, nothing else is paid, splits share nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.core.rng import stream
from puna.envs.skills.env import Skills, SkillsConfig, same_json
from puna.envs.skills.makers import LEVELS, SKILLS
from puna.gym.audit import audit
from puna.gym.registry import load_environment
from puna.gym.trajectory import Episode

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
MILLIMETRES = {"mm": 1, "cm": 10, "m": 1000, "km": 1_000_000}
MILLIGRAMS = {"mg": 1, "g": 1000, "kg": 1_000_000, "t": 10**9}


def solve(prompt: str) -> str:
    """The answer, found from the prompt by other means than the maker's."""
    skill, given_ = prompt.split(": ", 1)
    words = given_.split()
    if skill == "add":
        return str(int(words[0]) + int(words[1]))
    if skill == "reverse":
        return given_[::-1]
    if skill == "sort":
        return " ".join(sorted(words, key=int))
    if skill == "close":
        while given_ != (given_ := re.sub(r"\(\)|\[\]|\{\}|<>", "", given_)):
            pass
        return given_[::-1].translate(str.maketrans("([{<", ")]}>"))
    if skill == "convert":
        told, target = given_.split(" to ")
        scale = next(s for s in (SECONDS, MILLIMETRES, MILLIGRAMS) if target in s)
        found = re.findall(r"(\d+) (\w+)", told)
        return str(sum(int(n) * scale[unit] for n, unit in found) // scale[target])
    if skill == "call":
        found = []
        for part in given_.split("; "):
            name, rest = part.split(" with ")
            pairs = [p.split() for p in rest.split(" and ")]
            arguments = {k: int(v) if v.isdigit() else v for k, v in pairs}
            found.append({"arguments": arguments, "name": name})
        return json.dumps(found, indent=2)
    if skill == "tally":
        return " ".join(f"{k}{n}" for k, n in sorted(Counter(words).items()))
    assert skill == "clock"
    hour, minute = map(int, words[0].split(":"))
    total = 60 * hour + minute + sum(map(int, words[1:]))
    return f"{total // 60 % 24:02d}:{total % 60:02d}"


def outcome(env: Skills, task: Any, answer: str) -> Scored:
    episode = Episode(task.id, (("agent", Message.assistant(answer)),))
    (verdict,) = env.judge([episode], task.hidden, None)  # type: ignore[arg-type]
    return verdict["agent"]  # type: ignore[return-value]


@pytest.mark.parametrize("skill", SKILLS)
def test_the_prompt_alone_gives_the_answer_and_nothing_else_is_paid(skill: str) -> None:
    for level in LEVELS:
        env = Skills(SkillsConfig(skill, level))
        for i in range(12):
            task = env.task("train", i)
            right = solve(task.messages[0].text)
            assert task.tags == {"skill": skill, "level": str(level)}
            assert outcome(env, task, right) == Scored(1.0, True), task.messages[0].text
            assert outcome(env, task, f" {right}\n") == Scored(1.0, True)
            cheats = env.cheats(task)
            assert len(cheats) >= 12
            for name, scripts in cheats.items():
                said = scripts["agent"](task.messages).text
                assert outcome(env, task, said) == Scored(0.0, False), (name, said)
            other = env.task("train", i + 100).hidden["problem"].answer
            assert outcome(env, task, other) == Scored(0.0, False)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("close: <<><[[{", "}]]>>"),
        ("convert: 551 h 18 min to min", "33078"),
        ("convert: 2 km 3 m 4 cm to mm", "2003040"),
        ("clock: 05:19 -989 -232", "08:58"),
        ("tally: y s h h h h y z h", "h5 s1 y2 z1"),
    ],
)
def test_the_other_program_by_hand(prompt: str, answer: str) -> None:
    assert solve(prompt) == answer


@pytest.mark.parametrize("skill", SKILLS)
def test_levels_grow(skill: str) -> None:
    """What is to be read and said is longer from the first level to the last."""
    sizes = []
    for level in (1, 4, 8):
        made = [SKILLS[skill](stream(1, "levels", level, i), level) for i in range(60)]
        sizes.append(sum(len(p) + len(a) for p, a in made))
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("skill", SKILLS)
def test_no_answer_is_common_and_prompts_are_many(skill: str) -> None:
    for level in (1, 8):
        random = stream(2, "common", skill, level)
        made = [SKILLS[skill](random, level) for _ in range(1500)]
        ((_, most),) = Counter(answer for _, answer in made).most_common(1)
        assert most / 1500 < 0.02
        assert len({prompt for prompt, _ in made}) > 1000


def test_train_and_test_share_no_problem_nor_one_with_its_words_in_another_order() -> None:
    envs = [Skills(seed=s) for s in range(2)]
    train, test = (
        [env.task(split, i).key for env in envs for i in range(1500)] for split in ("train", "test")
    )
    bags = [{" ".join(sorted(key.split())) for key in keys} for keys in (train, test)]
    assert len(bags[0]) > 2000
    assert len(bags[1]) > 2000
    assert not bags[0] & bags[1]
    env = Skills()
    assert env.belongs("add: 47 385") == env.belongs("add: 385 47")
    sides = {env.belongs(f"add: {a} {b}") for a in range(10, 20) for b in range(10, 20)}
    assert sides == {"train", "test"}


def test_tags_cover_every_skill_at_every_level() -> None:
    env = Skills()
    assert env.count("test") == 6400
    cells = Counter(tuple(env.task("test", i).tags.values()) for i in range(6400))
    assert len(cells) == 64
    assert min(cells.values()) > 50


def test_a_mixture_is_drawn_as_it_is_named() -> None:
    env = load_environment("skills", {"skill": "addition+sorting+sorting", "level": 2})
    counts = Counter(env.task("train", i).tags["skill"] for i in range(900))
    assert counts.keys() == {"addition", "sorting"}
    assert 1.6 < counts["sorting"] / counts["addition"] < 2.5
    assert {env.task("train", i).tags["level"] for i in range(50)} == {"2"}
    env = load_environment("skills", {"skill": "reversal", "levels": 3})
    counts = Counter(env.task("test", i).tags["level"] for i in range(600))
    assert counts.keys() == {"1", "2", "3"}
    assert min(counts.values()) > 150


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"skill": "sortin"}, "did you mean 'sorting'"), ({"skill": ""}, "known: "),
     ({"level": 9}, "must be 1 to 8"), ({"level": -1}, "must be 1 to 8"),
     ({"levels": 0}, "levels is 0"), ({"levels": 9}, "levels is 9")],
)  # fmt: skip
def test_settings_that_are_not_there(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, UserError), match=said):
        load_environment("skills", settings)


@pytest.mark.parametrize(
    "other",
    ['[{"n": 1.0}]', '[{"n": true}]', '[{"n": "1"}]', '[{"n": 1, "n": 1}]', '[{"n": 1}, {"n": 1}]',
     '{"n": 1}', '[{"n": 1}] ok', "[" * 100_000, '[{"n": 1' + "0" * 5000 + "}]", "NaN", ""],
)  # fmt: skip
def test_json_that_is_another(other: str) -> None:
    assert same_json('[ {"n" :1}]', '[{"n": 1}]')
    assert not same_json(other, '[{"n": 1}]')


@given(st.text(max_size=60))
def test_whatever_is_said_gets_a_verdict(said: str) -> None:
    env = Skills()
    problem = env._draw(3)
    assert env.score(said, problem) == float(said.split() == problem.answer.split())


@pytest.mark.parametrize(("skill", "level"), [*zip(SKILLS, LEVELS, strict=True), ("all", 0)])
def test_every_skill_passes_the_audit(skill: str, level: int) -> None:
    found = audit("skills", n=4, settings={"skill": skill, "level": level})
    assert found.passed, found.findings
