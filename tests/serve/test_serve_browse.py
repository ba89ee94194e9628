"""What the pages read, where files are broken, replaced or being written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from puna.serve.browse import browse_router


@pytest.fixture
def folder(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def asking(folder: Path) -> TestClient:
    app = FastAPI()
    app.include_router(browse_router(folder))
    return TestClient(app)


def episodes(client: TestClient, file: str = "rl/episodes.jsonl") -> Any:
    return client.get("/runs/tiny/episodes", params={"file": file}).json()


@pytest.mark.parametrize(
    "line", [b"{}", b"[" * 100_000, b"null", b"\xff", b'{"schema": 2}', b'{"transcript": 3}']
)
def test_a_broken_line_is_counted_and_the_rest_is_read(folder: Path, line: bytes) -> None:
    journal = folder / "tiny/rl/episodes.jsonl"
    whole = episodes(asking(folder))
    assert whole["total"] > 0
    journal.write_bytes(line + b"\n" + journal.read_bytes())
    found = episodes(asking(folder))
    assert found["broken"] == whole["broken"] + 1
    assert found["total"] == whole["total"]


def test_a_line_being_written_is_read_when_it_is_whole(folder: Path) -> None:
    journal, client = folder / "tiny/rl/episodes.jsonl", asking(folder)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    some = episodes(client)["total"]
    journal.write_bytes(b"".join(lines))
    assert episodes(client)["total"] == some + 1


def test_another_file_of_the_same_name_is_read_anew(folder: Path) -> None:
    journal, client = folder / "tiny/rl/episodes.jsonl", asking(folder)
    episodes(client)
    record = json.loads(journal.read_bytes().splitlines()[0])
    lines = [json.dumps({**record, "task": f"other/{i}", "step": 1}) for i in range(500)]
    journal.write_text("\n".join(lines) + "\n")
    assert episodes(client)["total"] == 500
    asked: dict[str, Any] = {"file": "rl/episodes.jsonl", "n": 7}
    assert client.get("/runs/tiny/episode", params=asked).json()["task"] == "other/7"


@pytest.mark.parametrize(
    "change", [{"title": "\ud800"}, {"stages": 3}, {"stages": [{"id": "x" * 3000}]}, {"seed": {}}]
)
def test_a_broken_run_is_skipped_and_named(folder: Path, change: dict[str, Any]) -> None:
    other = folder / "other"
    shutil.copytree(folder / "tiny", other)
    plan = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(plan | change))
    answer = asking(folder).get("/runs")
    assert answer.status_code == 200
    names = [r["name"] for r in answer.json()["runs"]] + answer.json()["skipped"]
    assert sorted(names) == ["broken", "other", "tiny"]


def test_nothing_outside_the_folder_can_be_named(folder: Path) -> None:
    client = asking(folder)
    for name in ("..", "%2e%2e", "..%2ftiny", "tiny%2f..%2ftiny", "nothing"):
        assert client.get(f"/runs/{name}").status_code == 404
    for file in ("../run.json", "rl/../rl/episodes.jsonl", "/etc/passwd", "", "rl"):
        asked = {"file": file}
        assert client.get("/runs/tiny/episodes", params=asked).status_code == 404
    for n in (-1, 10**6):
        asked = {"file": "rl/episodes.jsonl", "n": str(n)}
        assert client.get("/runs/tiny/episode", params=asked).status_code == 404


def test_what_json_cannot_hold_is_sent_all_the_same(folder: Path) -> None:
    journal, client = folder / "tiny/rl/episodes.jsonl", asking(folder)
    record = json.loads(journal.read_bytes().splitlines()[0])
    record["outcomes"]["agent"] |= {"value": float("nan"), "evidence": "half \ud800"}
    record["usage"] = {"cost": float("inf")}
    record["branches"]["agent"][0]["logprobs"] = [float("-inf")] * 3
    journal.write_text(json.dumps(record) + "\n")
    assert episodes(client)["episodes"][0]["value"] is None
    answer = client.get("/runs/tiny/episode", params={"file": "rl/episodes.jsonl", "n": 0})
    told = json.loads(answer.text, parse_constant=lambda name: pytest.fail(name))
    assert told["usage"] == {"cost": None}
    assert told["outcomes"]["agent"]["evidence"] == "half \ud800"
    assert {p for branch in told["tokens"]["agent"] for _, p in branch} == {None}


@pytest.mark.parametrize(
    "query", [{"start": 10**30}, {"start": -5}, {"limit": 0}, {"least": "nan"}, {"most": "-inf"}]
)
def test_any_page_of_a_list_can_be_asked_for(folder: Path, query: dict[str, Any]) -> None:
    asked = {"file": "rl/episodes.jsonl", **query}
    answer = asking(folder).get("/runs/tiny/episodes", params=asked)
    assert answer.status_code == 200
    found = answer.json()
    wanted = {"start": {10**30: 0, -5: found["total"]}.get(query.get("start", 0))}
    shown = {"limit": 1, "least": found["total"], "most": 0, **wanted}[next(iter(query))]
    assert len(found["episodes"]) == shown
