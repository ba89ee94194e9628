"""The index of an episode journal: every episode once, found by outcome, value and text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from puna.serve import records
from puna.serve.journals import Index, Wanted
from puna.serve.records import light, shots


def record(step: int, sample: int, success: bool, text: str = "hi", **more: Any) -> dict[str, Any]:
    outcome = {"kind": "scored", "value": float(success), "success": success}
    message = {"speaker": "agent", "role": "assistant", "parts": [{"kind": "text", "text": text}]}
    return {
        "step": step,
        "task": "shop/train/0",
        "key": ["rl", step, "shop", "train", 0, sample],
        "transcript": [message] * (1 + success),
        "artifacts": {},
        "outcomes": {"agent": {**outcome, **more}},
        "tags": {},
        "branches": {"agent": [{"ids": [1, 2], "mask": [0, 1], "logprobs": [0.0, -0.5]}]},
    }


def line(*given: Any, **more: Any) -> str:
    return json.dumps(record(*given, **more)) + "\n"


def read(path: Path) -> Index:
    index = Index(path)
    index.refresh(60)
    return index


def outcomes(index: Index) -> list[str]:
    return [index.row(n)["outcome"] for n in range(len(index))]


def test_an_episode_written_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(line(1, 0, False) + line(1, 1, False) + line(2, 0, False))
    index = read(path)
    assert outcomes(index) == ["failure"] * 3
    with open(path, "a") as file:  # killed in step 2, resumed from step 1
        file.write(line(2, 0, True) + line(2, 1, False))
    index.refresh(60)
    assert [(index.row(n)["step"], index.row(n)["outcome"]) for n in range(4)] == [
        (1, "failure"),
        (1, "failure"),
        (2, "success"),
        (2, "failure"),
    ]
    assert index.counts() == {"failure": 3, "success": 1}
    assert len(index.episode(2)["messages"]) == 2
    assert index.episode(3)["outcome"] == "failure"


def test_episodes_without_a_key_are_told_apart_by_their_task(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    told = record(1, 0, True)
    many = {
        "task": "a/test/0",
        "outcomes": [told["outcomes"], {"agent": {"kind": "infra", "error": "gone"}}],
        "transcripts": [told["transcript"]] * 2,
        "ended": ["done", "turns"],
    }
    path.write_text(json.dumps(many) + "\n" + json.dumps({**many, "task": "a/test/1"}) + "\n")
    index = read(path)
    assert [index.row(n)["task"] for n in range(4)] == ["a/test/0"] * 2 + ["a/test/1"] * 2
    assert outcomes(index) == ["success", "infra"] * 2
    assert [index.episode(n)["ended"] for n in range(4)] == ["done", "turns"] * 2


def test_a_file_is_read_by_and_by(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(line(step, 0, step % 3 == 0) for step in range(40)))
    index, seen = Index(path), []
    while index.read < 1:
        index.refresh(-1)  # no time at all: still a line, or it would never end
        seen.append((len(index), round(index.read, 3)))
    assert [n for n, _ in seen] == [*range(1, 41)]
    assert seen[19][1] == pytest.approx(0.5, abs=0.02)
    assert outcomes(index) == outcomes(read(path))


def test_a_list_is_filtered_and_read_on(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(line(step, 0, False, value=step / 10) for step in range(10)))
    index = read(path)
    found = Wanted(least=0.25, most=0.7)
    assert index.find(found, 0, 3, 9) == ([3, 4, 5], 6, 5)
    assert index.find(found, 6, 3, 9) == ([6, 7], 10, 5)
    assert index.find(Wanted(outcome="success"), 0, 3, 9) == ([], 10, 0)
    assert index.find(Wanted(outcome="nothing"), 0, 3, 9) == ([], 10, 0)


def test_a_value_that_is_no_number_has_no_place_on_the_scale(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(line(1, 0, False, value=None) + line(2, 0, False, value=10**400))
    index = read(path)
    assert index.find(Wanted(least=-1e308), 0, 9, 9) == ([], 2, 0)
    assert index.find(Wanted(), 0, 9, 9) == ([0, 1], 2, 2)


def test_text_is_what_was_said_called_or_found(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    lines = [record(n, 0, False, text) for n, text in enumerate(["Straße", 'a "quoted" word', "x"])]
    call = {"kind": "tool_call", "id": "c", "name": "refund", "arguments": '{"id":406}'}
    lines[2]["transcript"][0]["parts"] = [call]
    lines[2]["outcomes"]["agent"]["evidence"] = "broke refund-method"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in lines))
    index = read(path)

    def holding(text: str) -> list[int]:
        return index.find(Wanted(text=text), 0, 9, 9)[0]

    assert holding("straße") == [0]
    assert holding('"QUOTED"') == [1]
    assert holding('{"id":406}') == [2]
    assert holding("refund-") == [2]
    assert holding("shop/train/0") == [0, 1, 2]
    for unsaid in ("speaker", "tool_call", "assistant", "logprobs", "scored"):
        assert holding(unsaid) == []  # names of members are nobody's words


def test_a_search_goes_on_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(line(n, 0, False, "yes" if n in (3, 7) else "no") for n in range(9)))
    index, at, found = read(path), 0, []
    for _ in range(9):
        some, at, _ = index.find(Wanted(text="yes"), at, 5, -1)
        found += some
    assert (found, at) == ([3, 7], 9)


ODD = [
    {"branches": 1},
    {"outcomes": {"x": 1}, "branches": {"a": [1]}},
    {"transcript": 1, "outcomes": 2},
    {', "branches": ': ', "outcomes": {}'},
    {"transcripts": [], "branches": [[]]},
]


@pytest.mark.parametrize("tags", ODD)
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":"), (" , ", " : ")])
@pytest.mark.parametrize("first", [True, False])
def test_a_line_read_lightly_says_the_same(
    tags: dict[str, Any], separators: tuple[str, str], first: bool
) -> None:
    told = record(3, 1, True, text='", "branches": {}, "outcomes": {}')
    told = {"tags": tags, **told} if first else {**told, "tags": tags}
    text = json.dumps(told, separators=separators).encode()
    short, (shot,) = light(text), shots(told)
    assert records.verdict(records.judged(short)[0]) == (shot["outcome"], shot["value"])
    assert [short[k] for k in ("step", "key", "task")] == [told[k] for k in ("step", "key", "task")]


def test_most_of_a_line_is_not_read() -> None:
    told = record(3, 1, True)
    assert set(told) - set(light(json.dumps(told).encode())) == {
        "transcript",
        "artifacts",
        "branches",
    }
    assert math.isclose(records.verdict(told["outcomes"])[1] or 0, 1.0)
