"""puna.eval: an endpoint that is fine, down, slow or talks garbage; a checkpoint; a run."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openai_server import said, serving

import puna
from puna.core.errors import UserError
from puna.core.files import locked
from puna.core.journal import read
from puna.core.runs import find_model, home_of
from puna.engine.remote import RemoteChat, RemoteConfig
from puna.envs.arithmetic.env import evaluate as value_of
from puna.evals.api import print_result
from puna.evals.evaluate import evaluate
from puna.gym.registry import load_environment
from puna.models import ModelConfig, build, save
from puna.text.tokenizer import Tokenizer


class Server:
    """An OpenAI-compatible server on this machine; `odd` may answer a prompt in its own way."""

    url = ""

    def __init__(self) -> None:
        self.odd: Callable[[str, int], tuple[int, bytes] | None] = lambda prompt, count: None
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []

    def answer(self, body: dict[str, Any]) -> tuple[int, bytes]:
        prompt = body["messages"][-1]["content"]
        self.bodies.append(body)
        self.asked.append(prompt)
        right = str(value_of(prompt.rstrip("="))) if prompt.endswith("=") else "yes"
        return self.odd(prompt, self.asked.count(prompt)) or (200, said(right))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.core.threads.default_threads", lambda: 1)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    with serving(running.answer) as running.url:
        yield running


ENV = load_environment("arithmetic")
KEYS = [ENV.task("test", i).key for i in range(12)]


def test_an_endpoint_is_scored_and_its_episodes_kept(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(n: int = 12) -> Any:
        return puna.eval(server.url, "arithmetic", n=n, out=tmp_path)

    found = ask()
    assert found.score.line().startswith("1.000 [")
    assert sorted(server.asked) == sorted([*KEYS, "Say yes."])
    assert {b["model"] for b in server.bodies} == {"tiny/model"}
    heats = {b["messages"][0]["content"]: b.get("temperature") for b in server.bodies}
    assert {heats[key] for key in KEYS} == {0}
    record = json.loads((found.directory / "result.json").read_text())
    assert record["facts"]["model"] == "tiny/model"
    assert record["env"]["hash"] == found.result.env["hash"]
    assert len(list(read(found.directory / "episodes.jsonl"))) == 12
    assert found.result.usage["prompt_tokens"] == 84
    server.asked.clear()
    again = ask()
    assert again.directory == found.directory
    assert server.asked == ["Say yes."]  # nothing is paid for twice
    assert again.score == found.score
    print_result(again)
    assert "1.000" in capsys.readouterr().out


def test_an_endpoint_that_is_down_is_one_line() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(UserError, match="nothing answers at") as caught:
            puna.eval(url, n=2)
    assert "\n" not in str(caught.value)
    assert "check the address" in str(caught.value)


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        ((401, b"{}"), "refuses with 401"),
        ((404, b"no such model"), "refuses with 404"),
        ((400, b"bad"), "refuses the request with 400"),
    ],
)
def test_an_endpoint_that_refuses_everything_is_one_line(
    server: Server, odd: tuple[int, bytes], expected: str, tmp_path: Path
) -> None:
    server.odd = lambda prompt, count: odd
    with pytest.raises(UserError, match=expected):
        puna.eval(server.url, n=2, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_request_is_infra_and_asked_again_next_time(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.odd = lambda prompt, count: (400, b"too long") if prompt in KEYS[3:5] else None
    found = puna.eval(server.url, n=12, out=tmp_path)
    assert found.score.value.mean == 1.0
    assert (found.score.n_infra, found.score.n_scored) == (2, 10)
    assert found.score.counted_zero == pytest.approx(10 / 12)
    print_result(found)
    shown = capsys.readouterr().out
    assert "2 infra, 0 invalid" in shown
    assert "refuses the request with 400: too long" in " ".join(shown.split())
    server.odd = lambda prompt, count: None
    server.asked.clear()
    whole = puna.eval(server.url, n=12, out=tmp_path)
    assert sorted(server.asked) == sorted([*KEYS[3:5], "Say yes."])
    assert (whole.score.n_infra, whole.score.n_scored) == (0, 12)


def test_slow_and_garbage_answers_are_infra_and_never_0(server: Server) -> None:
    def odd(prompt: str, count: int) -> tuple[int, bytes] | None:
        match KEYS.index(prompt) if prompt in KEYS else -1:
            case 0:
                time.sleep(2.5)
            case 1:
                return 200, b"<html>busy</html>"
            case 2:
                return 200, b'{"choices": []}'
            case 3:
                return 500, b"oops"
            case 4 if count == 1:
                return 503, b"once"
            case 5:
                return 200, said("\ud800")  # JSON can spell what UTF-8 cannot
        return None

    server.odd = odd
    config = RemoteConfig(server.url, retries=1, backoff_s=0.01, timeout_s=1.0)
    found = evaluate(ENV, {"agent": RemoteChat(config)}, n=8)
    kinds = [type(found.outcomes["agent"][f"arithmetic/test/{i}"][0]).__name__ for i in range(8)]
    assert kinds == ["Infra"] * 4 + ["Scored"] * 4
    assert found.score.value is not None
    assert found.score.value.mean == 0.75  # only the surrogate was a wrong answer


def test_surrogates_can_be_kept(server: Server, tmp_path: Path) -> None:
    server.odd = lambda prompt, count: (200, said("\ud800x"))
    found = puna.eval(server.url, n=2, out=tmp_path)
    (first, _) = read(found.directory / "episodes.jsonl")
    assert first["transcripts"][0][-1]["parts"][0]["text"] == "\ud800x"


def test_a_wrong_key_midway_stops_with_one_line_and_loses_nothing(
    server: Server, tmp_path: Path
) -> None:
    server.odd = lambda prompt, count: (401, b"expired") if prompt == KEYS[9] else None
    with pytest.raises(UserError, match="401"):
        puna.eval(server.url, n=12, out=tmp_path, concurrency=1)
    (journal,) = tmp_path.glob("*/episodes.jsonl")
    assert len(list(read(journal))) == 9
    server.odd = lambda prompt, count: None
    assert puna.eval(server.url, n=12, out=tmp_path).score.n_scored == 12
    assert len(server.asked) == 1 + 10 + 1 + 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("hf") / "tiny"
    tokenizer = Tokenizer.train(["0123456789 + - ="] * 3, 300)
    config = ModelConfig(
        family="llama3", vocab_size=300, hidden_size=32, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=8, intermediate_size=64, max_positions=128,
    )  # fmt: skip
    save(build(config), directory)
    tokenizer.save(directory)
    return directory


def test_a_checkpoint_is_scored(checkpoint: Path, tmp_path: Path) -> None:
    found = puna.eval(checkpoint, "arithmetic", n=5, k=2, max_tokens=4, out=tmp_path / "a")
    assert (found.policy, found.score.n_scored, found.score.k) == ("tiny", 10, 2)
    again = puna.eval(str(checkpoint), "arithmetic", n=5, k=2, max_tokens=4, out=tmp_path / "b")
    texts = [
        [r["transcripts"] for r in read(f.directory / "episodes.jsonl")] for f in (found, again)
    ]
    assert texts[0] == texts[1]
    beside = puna.eval(checkpoint, n=1, max_tokens=4)
    assert beside.directory.parent == checkpoint / "evals"
    other = puna.eval(checkpoint, n=1, max_tokens=5)
    assert other.directory != beside.directory  # other settings, other results


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"n": 0}, "n is 0 and k is 1"),
        ({"k": 0}, "k is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"env": "arithmetik"}, "did you mean 'arithmetic'"),
        ({"settings": {"term": 2}}, "did you mean 'terms'"),
        ({"stage": "sft"}, "is not a run, so it has no stage 'sft'"),
    ],
)
def test_mistakes_are_one_line(checkpoint: Path, given: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        puna.eval(checkpoint, **given)


def test_two_at_once_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    where = puna.eval(checkpoint, n=1, max_tokens=4, out=tmp_path).directory
    with locked(where), pytest.raises(UserError, match="is in use by process"):
        puna.eval(checkpoint, n=1, max_tokens=4, out=tmp_path)
    puna.eval(checkpoint, n=1, max_tokens=4, out=tmp_path)


def test_the_seed_names_an_endpoints_samples_and_not_its_tasks(
    server: Server, tmp_path: Path
) -> None:
    def seeds(seed: int | None) -> dict[str, int]:
        server.bodies.clear()
        puna.eval(server.url, n=3, seed=seed, out=tmp_path / str(seed))
        return {b["messages"][-1]["content"]: b["seed"] for b in server.bodies if "seed" in b}

    none, zero, one = seeds(None), seeds(0), seeds(1)
    assert none == zero
    assert sorted(zero) == sorted(one) == sorted(KEYS[:3])
    assert not set(zero.values()) & set(one.values())


def test_brackets_in_names_are_not_markup(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "[red]x[bold]"
    shutil.copytree(checkpoint, odd)
    print_result(puna.eval(odd, n=1, max_tokens=4, out=tmp_path / "[/out]"))
    shown = capsys.readouterr().out
    assert "[red]x[bold] on arithmetic" in shown
    assert "[/out]" in shown.replace("\n", "")


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({"threads": "many"}, r"run\.json is broken"),
        ({"dtype": "int8"}, r"run\.json is broken"),
        ({"cores": 2}, r"run\.json is broken"),
        ({"device": "cuda:99"}, "which is not on this machine now"),
    ],
)
def test_a_runs_machine_that_cannot_be_had_is_one_line(
    checkpoint: Path, tmp_path: Path, machine: dict[str, Any], expected: str
) -> None:
    run = run_directory(tmp_path, ["sft"], [])
    shutil.copytree(checkpoint, run / "sft" / "model")
    record = {"stages": [{"id": "sft", "seed": 7}], "seed": 5, "machine": {"threads": 1}}
    (run / "run.json").write_text(json.dumps(record))
    assert (home_of(run / "sft" / "model").seed, home_of(run / "x" / "model").seed) == (7, 5)
    (run / "run.json").write_text(json.dumps({**record, "machine": machine}))
    for target in (run, run / "sft"):
        with pytest.raises(UserError, match=expected):
            puna.eval(target, n=1)


def run_directory(root: Path, planned: list[str], done: list[str]) -> Path:
    for name in done:
        (root / name / "model").mkdir(parents=True)
        (root / name / "model" / "config.json").write_text("{}")
    record = {"stages": [{"id": i} for i in planned], "machine": {"threads": 1}}
    (root / "run.json").write_text(json.dumps(record))
    return root


def test_a_run_means_its_last_finished_stage(tmp_path: Path) -> None:
    run = run_directory(tmp_path, ["pretrain", "sft", "rl", "eval"], ["pretrain", "sft"])
    assert find_model(run) == (run / "sft" / "model", "sft")
    assert find_model(run, "pretrain") == (run / "pretrain" / "model", "pretrain")
    assert find_model(run / "sft") == (run / "sft" / "model", "sft")
    assert find_model(run / "sft" / "model")[0] == run / "sft" / "model"
    with pytest.raises(UserError, match="no finished stage 'rl'; known: pretrain, sft"):
        find_model(run, "rl")
    with pytest.raises(UserError, match="did you mean 'sft'"):
        find_model(run, "stf")


def test_what_holds_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "broken").mkdir()
    cases = {
        "gone": "no run or model at",
        "file": "neither a run nor a model",
        "empty": "neither a run nor a model",
    }
    for name, expected in cases.items():
        with pytest.raises(UserError, match=expected):
            find_model(tmp_path / name)
    run_directory(tmp_path / "bare", ["sft"], [])
    with pytest.raises(UserError, match=r"no stage of .* is finished"):
        find_model(tmp_path / "bare")
    for text in ("{", "[]", "{}", '{"stages": [{}]}'):
        (tmp_path / "broken" / "run.json").write_text(text)
        with pytest.raises(UserError, match=r"run\.json is broken"):
            find_model(tmp_path / "broken")


def test_results_that_cannot_be_written_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        puna.eval(checkpoint, n=1, max_tokens=4, out=tmp_path / "file")


def test_more_tasks_than_there_are_are_noted_and_all_played(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.py"
    few.write_text(
        "from puna.envs.arithmetic.env import Arithmetic\n"
        "class Few(Arithmetic):\n    name = 'few'\n    sizes = {'train': 9, 'test': 3}\n"
    )

    def ask(n: int) -> tuple[int, str]:
        found = puna.eval(server.url, str(few), n=n, out=tmp_path / str(n), progress="plain")
        return found.score.n_tasks, capsys.readouterr().err

    note = "few has 3 test tasks, not 5: all are played\n"
    played, shown = ask(5)
    assert (played, shown.count(note)) == (3, 1)
    played, shown = ask(3)
    assert (played, note in shown) == (3, False)


def test_the_table_has_every_estimate_with_its_interval(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = puna.eval(server.url, n=6, k=2, out=tmp_path)
    score = found.score
    for columns, between in (("140", " "), ("79", None)):
        monkeypatch.setenv("COLUMNS", columns)
        print_result(found)
        shown = capsys.readouterr().out
        for estimate in (score.value, score.pass_at[2], score.pass_hat[2]):
            parts = [str(estimate)] if between else str(estimate).split(" ", 1)
            assert all(part in shown for part in parts)
        assert max(map(len, shown.splitlines()[1:-1])) <= int(columns)
