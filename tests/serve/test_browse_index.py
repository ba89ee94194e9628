"""The index of an episode journal: what a resumed run wrote once more counts once."""

from __future__ import annotations

import json
from pathlib import Path

from puna.serve.browse import Index


def line(step: int, sample: int, success: bool) -> str:
    outcome = {"agent": {"kind": "scored", "value": float(success), "success": success}}
    record = {
        "step": step,
        "task": "shop/train/0",
        "key": ["rl", step, "shop", "train", 0, sample],
        "transcript": [{"role": "user", "parts": []}] * (1 + success),
        "outcomes": outcome,
        "ended": "done",
    }
    return json.dumps(record) + "\n"


def test_an_episode_written_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(line(1, 0, False) + line(1, 1, False) + line(2, 0, False))
    index = Index(path)
    index.refresh()
    assert [row["outcome"] for row in index.rows] == ["failure"] * 3
    with open(path, "a") as file:  # killed in step 2, resumed from step 1
        file.write(line(2, 0, True) + line(2, 1, False))
    index.refresh()
    assert [(row["step"], row["outcome"]) for row in index.rows] == [
        (1, "failure"),
        (1, "failure"),
        (2, "success"),
        (2, "failure"),
    ]
    assert [row["n"] for row in index.rows] == [0, 1, 2, 3]
    assert len(index.episode(2)["messages"]) == 2
    assert index.episode(3)["outcome"] == "failure"


def test_episodes_without_a_key_are_told_apart_by_their_task(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    told = json.loads(line(1, 0, True))
    many = {
        "task": "a/test/0",
        "transcripts": [told["transcript"]] * 2,
        "outcomes": [told["outcomes"]] * 2,
    }
    path.write_text(json.dumps(many) + "\n" + json.dumps({**many, "task": "a/test/1"}) + "\n")
    index = Index(path)
    index.refresh()
    assert [row["task"] for row in index.rows] == ["a/test/0"] * 2 + ["a/test/1"] * 2
