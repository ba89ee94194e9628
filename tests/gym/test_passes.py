"""Answers of several messages: every reward against answers that try to get at it."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.outcome import Credit, Scored, from_json, to_json
from puna.gym.passes import QUESTION, REWARDS, judge_pass, read_pass

YES, NO = f"{QUESTION} Yes", f"{QUESTION} No"
RIGHT, WRONG, OTHER = "2 + 2 = 4\n#### 4", "2 + 2 = 5\n#### 5", "2 + 2 = 6\n#### 6"


def answered(solution: str) -> bool:
    return "####" in solution


def right(solution: str) -> bool:
    return solution.rpartition("####")[2].strip() == "4"


def judged(text: str, rewards: str = "corr", turns: int = 3, cut: bool = False) -> Scored:
    return judge_pass(text, cut, right, answered, turns=turns, rewards=rewards)


def earned(text: str, **how) -> dict[str, float]:
    return {credit.name: credit.reward for credit in judged(text, **how).credits}


def lines(*parts: str) -> str:
    return "\n".join(parts)


# name: (answer, what its messages earn under corr, why it stopped, whether the last is right)
ANSWERS = {
    "right, yes": (lines(RIGHT, YES), {"solver 1": 1, "verifier 1": 1}, "yes", True),
    "right, no": (lines(RIGHT, NO), {"solver 1": 1, "verifier 1": 0, "solver 2": 0}, "no", True),
    "wrong, yes": (lines(WRONG, YES), {"solver 1": 0, "verifier 1": 0}, "yes", False),
    "wrong, no": (lines(WRONG, NO), {"solver 1": 0, "verifier 1": 1, "solver 2": 0}, "no", False),
    "fixed": (
        lines(WRONG, NO, RIGHT, YES),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 1, "verifier 2": 1}, "yes", True,
    ),
    "broken": (
        lines(RIGHT, NO, WRONG, YES),
        {"solver 1": 1, "verifier 1": 0, "solver 2": 0, "verifier 2": 0}, "yes", False,
    ),
    "critique": (
        lines(WRONG, "<reflect>Two twos are\nfour.</reflect>", NO, RIGHT, YES),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 1, "verifier 2": 1}, "yes", True,
    ),
    "windows lines": (
        lines(WRONG, f"{NO}\r", RIGHT, f"{YES} \r"),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 1, "verifier 2": 1}, "yes", True,
    ),
    "goes on after yes": (
        lines(RIGHT, YES, NO, "x" * 1000), {"solver 1": 1, "verifier 1": 1}, "yes", True,
    ),
    "another answer after yes": (
        lines(RIGHT, YES, "or", WRONG), {"solver 1": 1, "verifier 1": 1}, "yes", False,
    ),
    "the right answer after yes": (
        lines(WRONG, YES, "or", RIGHT), {"solver 1": 0, "verifier 1": 0}, "yes", False,
    ),
    "empty": ("", {"solver 1": 0, "verifier 1": 0}, "missing", False),
    "white space": (" \n\t\n", {"solver 1": 0, "verifier 1": 0}, "missing", False),
    "form alone": (YES, {"solver 1": 0, "verifier 1": 0}, "malformed", False),
    "form alone, twice": (lines(YES, NO), {"solver 1": 0, "verifier 1": 0}, "malformed", False),
    "missing verdict": (RIGHT, {"solver 1": 1, "verifier 1": 0}, "missing", True),
    "critique without a verdict": (
        lines(RIGHT, "<reflect>Fine.</reflect>"), {"solver 1": 1, "verifier 1": 0}, "missing", True,
    ),
    "both verdicts": (
        lines(RIGHT, f"{YES} No"), {"solver 1": 1, "verifier 1": 0}, "malformed", True,
    ),
    "both verdicts, with a stroke": (
        lines(WRONG, f"{NO}/Yes"), {"solver 1": 0, "verifier 1": 0}, "malformed", False,
    ),
    "another verdict": (
        lines(WRONG, f"{QUESTION} Maybe"), {"solver 1": 0, "verifier 1": 0}, "malformed", False,
    ),
    "verdict in small letters": (
        lines(RIGHT, f"{QUESTION} yes"), {"solver 1": 1, "verifier 1": 0}, "malformed", True,
    ),
    "longer word": (
        lines(RIGHT, f"{YES}terday"), {"solver 1": 1, "verifier 1": 0}, "malformed", True,
    ),
    "verdict inside the solution": (
        lines("2 + 2 = 4", YES, "#### 4"), {"solver 1": 0, "verifier 1": 0}, "malformed", False,
    ),
    "verdict in the solution's line": (
        f"{RIGHT} {YES}", {"solver 1": 1, "verifier 1": 0}, "malformed", True,
    ),
    "verdict inside the critique": (
        lines(WRONG, f"<reflect>\n{YES}\n</reflect>", NO),
        {"solver 1": 0, "verifier 1": 0}, "malformed", False,
    ),
    "verdict in an open critique": (
        lines(WRONG, f"<reflect>no.\n{NO}"), {"solver 1": 0, "verifier 1": 0}, "malformed", False,
    ),
    "two critiques": (
        lines(WRONG, "<reflect>a</reflect>", "<reflect>b</reflect>", NO),
        {"solver 1": 0, "verifier 1": 0}, "malformed", False,
    ),
    "text behind the critique": (
        lines(WRONG, "<reflect>a</reflect>", "#### 4", NO),
        {"solver 1": 0, "verifier 1": 0}, "malformed", False,
    ),
    "same wrong solution again": (
        lines(WRONG, NO, WRONG, NO, RIGHT, YES),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 0, "verifier 2": 0}, "repeated", False,
    ),
    "same solution, spaced otherwise": (
        lines(WRONG, NO, f"  {WRONG}\n", NO),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 0, "verifier 2": 0}, "repeated", False,
    ),
    "an earlier solution again": (
        lines(WRONG, NO, OTHER, NO, WRONG, NO),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 0, "verifier 2": 1, "solver 3": 0,
         "verifier 3": 0}, "repeated", False,
    ),
    "as many turns as allowed": (
        lines(WRONG, NO, OTHER, NO, "#### 7", NO),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 0, "verifier 2": 1, "solver 3": 0,
         "verifier 3": 1}, "no", False,
    ),
    "too many turns": (
        lines(WRONG, NO, OTHER, NO, "#### 7", NO, RIGHT, YES),
        {"solver 1": 0, "verifier 1": 1, "solver 2": 0, "verifier 2": 1, "solver 3": 0,
         "verifier 3": 0}, "turns", False,
    ),
    "not UTF-8": (lines("\ufffd\x00", YES), {"solver 1": 0, "verifier 1": 0}, "malformed", False),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_what_each_message_earns(name: str) -> None:
    text, wanted, stopped, succeeds = ANSWERS[name]
    found = judged(text)
    assert earned(text) == wanted
    assert (found.value, found.success) == (float(succeeds), succeeds)
    assert found.evidence == f"stopped: {stopped}"
    for rewards in REWARDS:  # verdicts earn the same whatever solutions do
        told = earned(text, rewards=rewards)
        assert {k: v for k, v in told.items() if "verifier" in k} == {
            k: v for k, v in wanted.items() if "verifier" in k
        }
        assert judged(text, rewards).value == found.value


@pytest.mark.parametrize(
    ("rights", "final", "corr", "last", "all_"),
    [
        ([True], True, [1], [1], [1]),
        ([False], False, [0], [0], [0]),
        ([False, True], True, [0, 1], [1, 1], [0, 1]),
        ([True, False], False, [1, 0], [0, 0], [0, 0]),
        ([True, False, True], True, [1, 0, 1], [1, 1, 1], [1, 0, 1]),
        ([True], False, [1], [0], [0]),  # given up: cut off behind a No
    ],
)
def test_the_three_configurations(rights, final, corr, last, all_) -> None:
    assert REWARDS["corr"](rights, final) == corr
    assert REWARDS["last"](rights, final) == last
    assert REWARDS["all"](rights, final) == all_


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        (RIGHT, {"solver 1": 0, "verifier 1": 0}, 0),  # who knows what the line would have been
        (lines(RIGHT, "<reflect>Fi"), {"solver 1": 1, "verifier 1": 0}, 0),
        (lines(RIGHT, NO), {"solver 1": 1, "verifier 1": 0, "solver 2": 0}, 0),
        (lines(WRONG, NO, "2 + 2 = 4\n####"),
         {"solver 1": 0, "verifier 1": 1, "solver 2": 0, "verifier 2": 0}, 0),
        (lines(RIGHT, YES, "and"), {"solver 1": 1, "verifier 1": 1}, 1),  # read to the end
    ],
)  # fmt: skip
def test_an_answer_that_was_cut_off(text: str, wanted: dict[str, float], value: float) -> None:
    found = judged(text, cut=True)
    assert {c.name: c.reward for c in found.credits} == wanted
    assert found.value == value


def test_messages_stand_one_behind_the_other_from_the_beginning() -> None:
    text = lines(WRONG, "<reflect>No.</reflect>", NO, RIGHT, YES, "tail")
    found = read_pass(text, 3, answered)
    assert [text[m.start : m.end] for m in found.messages] == [
        f"{WRONG}\n", f"<reflect>No.</reflect>\n{NO}", f"\n{RIGHT}\n", YES,
    ]  # fmt: skip
    assert [m.verdict for m in found.of("verifier")] == [False, True]


PIECES = [RIGHT, WRONG, YES, NO, QUESTION, "\n", "<reflect>", "</reflect>", "x", " "]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(1, 4), st.booleans())
def test_any_text_has_an_outcome(parts: list[str], turns: int, cut: bool) -> None:
    text = "".join(parts)
    found = judged(text, turns=turns, cut=cut)
    places = [(c.start, c.end) for c in found.credits]
    assert places[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(places))
    assert places[-1][1] <= len(text)
    assert len(found.credits) <= 2 * turns
    assert len({c.name for c in found.credits}) == len(found.credits)
    assert all(c.reward in (0, 1) for c in found.credits)
    assert found.credits[0].name == "solver 1"
    assert from_json(to_json(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "\n" * 1_000_000,
        "<reflect>" * 100_000 + YES,
        f"#### 4\n<reflect>{'a' * 500_000}</reflect>{' ' * 500_000}{YES}",
        f"#### 4\n{QUESTION} " * 40_000,
        lines(*[lines(f"#### {n}", NO) for n in range(30_000)]),
    ],
    ids=["letters", "lines", "tags", "gap", "questions", "turns"],
)
def test_a_megabyte_is_judged_at_once(text: str) -> None:
    begun = time.process_time()
    judged(text)
    assert time.process_time() - begun < 0.5


def test_a_credit_has_a_place_and_a_finite_reward() -> None:
    for place in ((-1, 2), (3, 2)):
        with pytest.raises(ValueError, match="is of characters"):
            Credit("solver 1", *place, 0.0)
    with pytest.raises(ValueError, match="finite"):
        Credit("solver 1", 0, 1, float("nan"))
    assert to_json(Scored(1.0, True)) == {
        "kind": "scored", "value": 1.0, "success": True, "parts": {}, "evidence": "",
    }  # fmt: skip
