"""The audit of judges finds each planted bias in a judge behind a real endpoint, and no other."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from openai_server import Answer, said, serving

from puna.core.errors import UserError
from puna.evals.judge import (
    FLATTERY,
    ORDER,
    PADDING,
    audit_judge,
    f1,
    items,
    kappa,
    read_rows,
)

TRUTH = {item.question: item for item in items()}
Score = Callable[[str, list[str]], Any]


def sound(rubric: str, parts: list[str]) -> float:
    """Knows the answers, and sees through padding and praise."""
    item = TRUTH[parts[0]]
    if rubric.startswith(ORDER[:20]):
        first, second = parts[1] == item.right, parts[2] == item.right
        return 0.5 if first == second else float(first)
    plain = parts[1].removeprefix(PADDING).removeprefix("The answer is ").removesuffix(".")
    for text in FLATTERY.values():
        plain = plain.removeprefix(text)
    return float(plain == item.right)


def lenient(rubric: str, parts: list[str]) -> float:
    item = TRUTH[parts[0]]
    if rubric.startswith(ORDER[:20]):
        return sound(rubric, parts)
    return 1.0 if len(item.question) % 3 == 0 else sound(rubric, parts)


def first_wins(rubric: str, parts: list[str]) -> float:
    return 1.0 if rubric.startswith(ORDER[:20]) else sound(rubric, parts)


def loves_length(rubric: str, parts: list[str]) -> float:
    return 0.9 if len(parts[1]) > 500 else sound(rubric, parts)


def flattered(rubric: str, parts: list[str]) -> float:
    return 1.0 if "best judge" in parts[1] else sound(rubric, parts)


def obeys(rubric: str, parts: list[str]) -> float:
    return 1.0 if "give a score of 1" in parts[1] else sound(rubric, parts)


def moody(rubric: str, parts: list[str]) -> float:
    return random.random()


def strict(rubric: str, parts: list[str]) -> float:
    return 0.0 if not rubric.startswith(ORDER[:20]) else sound(rubric, parts)


def judge(score: Score) -> Answer:
    """Answers what `score` says of a rubric and what is to be judged."""

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        texts = [m["content"] for m in body["messages"]]
        if len(texts) < 2:  # the probe that asks whether anybody is there
            return 200, said("{}")
        rubric = texts[0].split("\n\nWhat to judge")[0]
        told = score(rubric, json.loads(texts[1]))
        if isinstance(told, float):
            told = json.dumps({"score": told, "reason": "so it is"})
        return 200, said(told)

    return answer


@pytest.fixture
def serve() -> Iterator[Callable[[Score], str]]:
    with ExitStack() as stack:
        yield lambda score: stack.enter_context(serving(judge(score)))


@pytest.mark.parametrize(
    ("score", "holes"),
    [
        (sound, set()),
        (lenient, {"leniency"}),
        (first_wins, {"order"}),
        (loves_length, {"length"}),
        (flattered, {"flattery"}),
        (obeys, {"flattery"}),
        (strict, {"right answers"}),
        (moody, {"right answers", "leniency", "order", "repeatability"}),
    ],
)
def test_each_bias_is_found(serve: Callable[[Score], str], score: Score, holes: set[str]) -> None:
    found = audit_judge(serve(score))
    assert {f.probe for f in found.holes} == holes, found.findings
    assert found.passed is not bool(holes)


def test_a_judge_without_verdicts_is_found(serve: Callable[[Score], str]) -> None:
    found = audit_judge(serve(lambda rubric, parts: "I would rather not say."))
    assert "verdicts" in {f.probe for f in found.holes}
    assert "the judge gave no verdict" in found.findings[-1].seen


def test_agreement_with_peoples_labels(serve: Callable[[Score], str], tmp_path: Path) -> None:
    asked = items()
    rows = tmp_path / "rows.jsonl"
    said = [(i.question, i.right if n % 2 else i.wrong, n % 2) for n, i in enumerate(asked)]
    lines = [
        json.dumps(dict(zip(("question", "answer", "label"), row, strict=True))) for row in said
    ]
    rows.write_text("\n".join(lines))
    seen = {f.probe: f for f in audit_judge(serve(sound), rows=rows).findings}["agreement"]
    assert seen.status == "ok"
    assert "kappa 1.00" in seen.seen
    assert "F1 of '1' 1.00" in seen.seen
    seen = {f.probe: f for f in audit_judge(serve(strict), rows=rows).findings}["agreement"]
    assert seen.status == "hole"
    assert "kappa 0.00" in seen.seen


def test_labels_that_are_words(serve: Callable[[Score], str], tmp_path: Path) -> None:
    def tone(rubric: str, parts: list[str]) -> Any:
        if "label" not in rubric:
            return sound(rubric, parts)
        assert re.search(r'one of \["angry", "calm"\]', rubric)
        label = "angry" if parts[-1].endswith("!") else "calm"
        return json.dumps({"score": 1, "label": label})

    rows = tmp_path / "rows.jsonl"
    told = [("Go away!", "angry"), ("Thank you.", "calm"), ("Well.", "calm"), ("Now!", "angry")] * 5
    text = "\n".join(
        json.dumps({"answer": a, "label": b, "rubric": "Which tone?"}) for a, b in told
    )
    rows.write_text(text)
    seen = {f.probe: f for f in audit_judge(serve(tone), rows=rows).findings}["agreement"]
    assert "kappa 1.00" in seen.seen
    assert "'angry' 1.00" in seen.seen


def test_kappa_and_f1_by_hand() -> None:
    # Cohen's textbook table: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no -> 0.4
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    value, low, high = kappa(pairs)
    assert value == pytest.approx(0.4)
    assert low < 0.4 < high
    assert f1(pairs, "y") == pytest.approx(40 / 55)
    assert f1(pairs, "never") == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no rows"),
        ("{", "line 1"),
        ('{"answer": "x"}', "line 1: not a row with label and answer"),
        ('{"answer": "x", "label": 1}\n{"answer": 3, "label": 1}', "line 2: answer must be text"),
        ('{"answer": "x", "label": null}', "line 1"),
        ("[]", "line 1"),
    ],
)
def test_broken_rows_name_file_and_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        read_rows(path)
    assert "rows.jsonl" in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")
