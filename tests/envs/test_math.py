"""math: what counts as the answer, whose numbers are whose, files of problems, the audit."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.rng import stream
from puna.envs.math.answers import LONGEST, equal, final_answer, number
from puna.envs.math.env import Math
from puna.envs.math.problems import CHANGES, make, numbers_of
from puna.gym.audit import audit
from puna.gym.environment import Problem
from puna.gym.registry import load_environment
from puna.gym.trajectory import Episode

NUMBER = {"equality": "number"}
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"


def env(**settings) -> Math:
    return load_environment("math", NUMBER | settings)  # type: ignore[return-value]


def judged(environment: Math, problem: Problem, *said: str, ended: str = "done"):
    episodes = [Episode("t", (("agent", Message.assistant(s)),), {}, ended) for s in said]
    verdicts = environment.judge(episodes, {"problem": problem}, None)  # type: ignore[arg-type]
    return [v["agent"] for v in verdicts]


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("#### 7", "7"), ("so\n####7 \nand more", "7"), ("\\boxed{7}", "7"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"), ("\\boxed{1}, no, \\boxed{2}", "2"),
        ("#### 1\n#### 2", "2"), ("#### 1\n\\boxed{2}", "2"), ("\\boxed{2}\n#### 1", "1"),
        ("\\boxed{\\boxed{3}}", "3"), ("#### 1\n#### ", ""), ("\\boxed{1} \\boxed{2", ""),
        ("\\boxed{}", ""), ("", ""), ("7", ""), ("The answer is 7.", ""), ("####", ""),
        ("#### 7" + " " * 500, "7"), ("#### 7" + " " * 500 + "7", ""),
        ("#### " + "7" * (LONGEST + 1), ""), ("\\boxed{" + "7" * (LONGEST + 1) + "}", ""),
        ("\\boxed{" * 10_000, ""), ("##### 7", "7"), ("\\boxed {7}", ""),
    ],
)  # fmt: skip
def test_the_last_mark_holds_the_answer(solution: str, answer: str) -> None:
    assert final_answer(solution) == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7), ("-7", -7), ("+7", 7), ("007", 7), ("7.0", 7), ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)), ("1/2", Fraction(1, 2)), ("-3/4", Fraction(-3, 4)),
        ("1,234,567", 1234567), ("1,234.5", Fraction(2469, 2)), ("12,34", None), ("1,23", None),
        ("", None), ("-", None), (".", None), ("1/0", None), ("1.5/2", None), ("0x10", None),
        ("1e9", None), ("10**10**9", None), ("7 ", None), ("1_000", None), ("\u0667", None),
        ("7" * (LONGEST + 1), None), ("nan", None), ("inf", None), ("1 2", None), ("--1", None),
    ],
)  # fmt: skip
def test_numbers(text: str, value: Fraction | None) -> None:
    assert number(text) == value


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_numbers_are_equal_where_their_values_are(a: Fraction, b: Fraction) -> None:
    assert equal(str(a), str(b), exact=True) == (a == b)
    assert equal(f"{a.numerator}/{a.denominator}", str(a), exact=True)


# Answers that try to get at the reader: a list, an evaluation, a parser that never ends.
HOSTILE = [
    "14, 15", "14 or 15", "{14, 15}", "[14]+[15]", "1/0", "14/0", "0/0", "10**10**9",
    "10^{10^{10^{10}}}", "9" * 121, "\\frac{1}{0}", "__import__('os').system('true')",
    "\\input{/etc/passwd}", "(" * 100, "\\frac" * 24, "x" * 120, "14\x00", "\ud800",
    "\\text{14 or 15}", "\\infty", "nan", "\\sqrt{-1}", "\\int_0^1 x^{x^{x}} dx",
    "\\sum_{n=1}^{10^9} n", "100000000!!!!",
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answers_are_wrong_numbers(answer: str) -> None:
    assert not equal(answer, "14", exact=True)


class TestMathVerify:
    """The same with math-verify behind it."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("math_verify", reason="math-verify is not installed")

    @pytest.mark.parametrize(
        ("answer", "reference"),
        [("\\frac{1}{2}", "0.5"), ("0.5", "\\frac{1}{2}"), ("2^{3}", "8"), ("\\sqrt{16}", "4"),
         ("x+1", "1+x"), ("\\frac{x^2-1}{x-1}", "x+1"), ("\\$14", "14"), ("14", "14.0")],
    )  # fmt: skip
    def test_equal_values(self, answer: str, reference: str) -> None:
        assert equal(answer, reference, exact=False)

    @pytest.mark.parametrize(
        ("answer", "reference"), [("\\frac{1}{3}", "0.5"), ("x-1", "1+x"), ("15", "14"), ("", "14")]
    )
    def test_other_values(self, answer: str, reference: str) -> None:
        assert not equal(answer, reference, exact=False)

    @pytest.mark.slow
    @pytest.mark.parametrize("answer", HOSTILE)
    def test_hostile_answers_are_wrong_in_time(self, answer: str) -> None:
        begun = time.monotonic()
        assert not equal(answer, "14", exact=False)
        assert time.monotonic() - begun < 60

    @pytest.mark.slow
    def test_the_reward_can_be_trusted(self) -> None:
        found = audit("math", n=3)
        assert found.passed, found.findings


@pytest.mark.parametrize("turns", [1, 3])
def test_the_reward_can_be_trusted(turns: int) -> None:
    found = audit("math", n=6, settings=NUMBER | {"turns": turns})
    assert found.passed, found.findings


def test_the_commonest_answer_is_what_chance_says() -> None:
    """Declared 0, easy stories would fail the audit: on fresh tasks it earns about as much."""
    easy = env(steps=1, digits=1)
    answers = [easy.task("test", i).hidden["problem"].answer for i in range(easy.count("test"))]
    best = Counter(answers).most_common(1)[0][1] / len(answers)
    assert easy.chance > 0.05
    assert abs(easy.chance - best) < 0.05
    assert env().chance < 0.05


def test_a_demonstration_shows_the_way_and_the_oracle_the_answer() -> None:
    for turns, tail in ((1, ""), (3, "\nIs this correct? Yes")):
        environment = env(turns=turns)
        task = environment.task("train", 1)
        problem = task.hidden["problem"]
        shown, said = (s["agent"](task.messages).text for s in
                       (environment.demonstration(task), environment.oracle(task)))  # fmt: skip
        assert shown == problem.hidden["solution"] + tail
        assert said == f"#### {problem.answer}"
        assert [o.value for o in judged(environment, problem, shown, said)] == [1, 1]


def test_every_story_is_solved_by_following_it() -> None:
    """The answer, found from the words by other means than the maker's."""
    seen = set()
    for index in range(400):
        story = make(stream(0, "story", index), 4, 2)
        first, *changes, question = re.split(r"(?<=[.?]) ", story.question)
        value = int(re.findall(r"\d+", first)[0])
        for change in changes:
            n = int(re.findall(r"\d+", change)[0])
            if "times as many" in change:
                op, value = "*", value * n
            elif any(word in change for word in ("loses", "sells")) or re.search(
                r"gives \d", change
            ):
                op, value = "-", value - n
            else:
                op, value = "+", value + n
            seen.add(op)
            assert value >= 1
        assert story.answer == str(value) == final_answer(story.solution)
        assert question.startswith("How many")
        assert len(changes) == story.steps == story.solution.count("=")
        for line in story.solution.splitlines()[:-1]:
            a, op, b, result = re.fullmatch(r"(\d+) (.) (\d+) = (\d+)", line).groups()  # type: ignore[union-attr]
            x, y = int(a), int(b)
            assert {"+": x + y, "-": x - y, "*": x * y}[op] == int(result)
    assert seen == set(CHANGES)


def test_no_numbers_are_in_both_splits() -> None:
    environment = env()
    test = {numbers_of(environment.task("test", i).key) for i in range(environment.count("test"))}
    train = {numbers_of(environment.task("train", i).key) for i in range(3000)}
    assert not test & train
    assert environment.count("test") == 2000


def write(path: Path, count: int, first: int = 0) -> Path:
    rows = [
        {
            "question": f"What is {n} and {n}?",
            "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>\n#### {2 * n}",
        }
        for n in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_split_by_its_questions(tmp_path: Path) -> None:
    environment = env(data=str(write(tmp_path / "a.jsonl", 200)))
    sizes = [environment.count(split) for split in ("train", "test")]
    assert sum(sizes) == 200
    assert 20 < sizes[1] < 70
    keys = [
        {environment.task(s, i).key for i in range(n)}
        for s, n in zip(("train", "test"), sizes, strict=True)
    ]
    assert not keys[0] & keys[1]
    grown = env(data=str(write(tmp_path / "b.jsonl", 300)))
    assert keys[0] <= {grown.task("train", i).key for i in range(grown.count("train"))}
    task = environment.task("test", 0)
    (right,) = judged(
        environment, task.hidden["problem"], task.hidden["problem"].hidden["solution"]
    )
    assert right.success
    assert task.messages[0].role == "system"


def test_with_a_test_file_nothing_tested_is_trained_on(tmp_path: Path) -> None:
    data, test = write(tmp_path / "a.jsonl", 50), write(tmp_path / "t.jsonl", 20, 40)
    environment = env(data=str(data), test=str(test))
    assert (environment.count("train"), environment.count("test")) == (40, 20)


def test_another_file_is_another_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 10)
    before = env(data=str(path)).content_hash  # type: ignore[attr-defined]
    assert env(data=str(path)).content_hash == before  # type: ignore[attr-defined]
    write(path, 11)
    assert env(data=str(path)).content_hash != before  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no problems"),
        ("{", "line 1: "),
        ('{"question": "a", "answer": "#### 1"}\n[]', "line 2: a row must be an object"),
        ('{"question": "a"}', "line 1: 'answer' is None"),
        ('{"question": "", "answer": "#### 1"}', "line 1: 'question' is ''"),
        ('{"question": "a", "answer": "1"}', "line 1: the answer ends neither in ####"),
        ('{"question": "a", "answer": "#### x"}', "line 1: the answer is 'x', not a number"),
        ("[" * 100_000, "line 1: "),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(what)):
        env(data=str(path)).count("train")


def test_a_file_that_is_not_there_or_not_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        env(data=str(tmp_path / "none.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        env(data=str(tmp_path / "b.jsonl")).count("test")
    for settings in ({"steps": 0}, {"digits": 7}, {"turns": 0}, {"test": "x"}, {"reward": "sum"}):
        with pytest.raises(UserError, match="env math"):
            env(**settings)


def test_without_math_verify_its_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.envs.math.env.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'puna\[math\]'"):
        load_environment("math")
    assert env().count("train")


def test_the_majority_of_several_answers() -> None:
    """Each is right or wrong by itself; equal numbers are one answer however they are written."""
    problem = Problem("?", "7")
    for said, wanted in (
        (("#### 7", "#### 8", "#### 7.0"), 1),
        (("#### 8", "#### 7", "#### 8"), 0),
        (("#### 8", "#### 7"), 0),  # of equals the earliest
        (("#### 7", "#### 8"), 1),
        (("nothing", "", "#### 7"), 1),
        (("nothing", ""), 0),
    ):
        found = judged(env(), problem, *said)
        assert {o.parts["majority"] for o in found} == {wanted}
        assert [o.success for o in found] == [final_answer(s) in ("7", "7.0") for s in said]
    assert "majority" not in judged(env(), problem, "#### 7")[0].parts


def test_a_cut_answer_earns_nothing_and_several_messages_have_credits() -> None:
    problem = Problem("?", "7")
    assert judged(env(), problem, "#### 7", ended="tokens")[0].value == 0
    text = "#### 8\nIs this correct? No\n#### 7\nIs this correct? Yes"
    (found,) = judged(env(turns=2), problem, text)
    assert [c.reward for c in found.credits] == [0, 1, 1, 1]
    (one,) = judged(env(turns=1), problem, text)
    assert one.value == 1
    assert one.credits == ()
    (last,) = judged(env(turns=2, reward="last"), problem, text)
    assert [c.reward for c in last.credits] == [1, 1, 1, 1]


def test_a_session_stops_at_its_own_yes_only_where_there_are_verdicts() -> None:
    for turns, stop in ((1, ()), (2, ("Is this correct? Yes",))):
        environment = env(turns=turns)
        session = environment.start(environment.task("train", 0), None, None)
        turn = session.next()
        assert turn is not None
        assert turn.stop == stop


@pytest.mark.skipif(not GSM8K.is_dir(), reason="no ../shared/data/gsm8k")
def test_gsm8k_as_it_is() -> None:
    environment = env(data=str(GSM8K / "train.jsonl"), test=str(GSM8K / "test.jsonl"))
    assert (environment.count("train"), environment.count("test")) == (7473, 1319)
    first = environment.task("test", 0)
    assert first.hidden["problem"].answer == "18"
    for index in range(0, 1319, 50):
        problem = environment.task("test", index).hidden["problem"]
        assert judged(environment, problem, problem.hidden["solution"])[0].success
        assert not judged(environment, problem, f"#### {problem.answer}1")[0].success
