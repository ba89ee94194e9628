"""`puna propose`: a file of admitted tasks, the same after `kill -9`, by a grammar or a model."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from odd_words import write_odd
from openai_server import said, serving
from tiny_run import puna

from puna.core.errors import UserError
from puna.core.journal import read
from puna.envs.proofs import specs
from puna.evals.propose import Proposed, print_proposed, propose
from puna.gym.proposer import Wanted
from puna.gym.registry import load_environment


def records(path: Path) -> list[dict[str, Any]]:
    return [r for r in read(path) if "number" in r]


def test_without_a_model_the_environments_source_proposes(tmp_path: Path) -> None:
    env = str(write_odd(tmp_path))
    found = propose(env, n=40, out=tmp_path / "new.jsonl")
    assert found.admitted == len(found.records) == 40
    assert [r["number"] for r in found.records] == list(range(40))
    assert {r["admission"]["tried"] for r in found.records} == {0}


def test_a_killed_run_goes_on_and_gives_the_same_file(tmp_path: Path) -> None:
    env = write_odd(tmp_path)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert puna("propose", env, "-n", "70", "-o", whole).code == 0
    done = puna("propose", env, "-n", "70", "-o", cut, crash="propose.appended:40")
    assert done.code == -signal.SIGKILL
    assert 0 < len(records(cut)) < 40
    cut.write_bytes(cut.read_bytes() + b'{"number": 3, "torn')
    again = puna("propose", env, "-n", "70", "-o", cut)
    assert again.code == 0, again.err
    assert "70 of 70 admitted" in again.out
    last = {r["number"]: r for r in records(cut)}
    assert [last[n] for n in range(70)] == records(whole)
    more = propose(str(env), n=75, out=cut)  # and more of the same
    assert more.admitted == 75


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    env, out = str(write_odd(tmp_path)), tmp_path / "new.jsonl"
    propose(env, n=3, out=out)
    with pytest.raises(UserError, match="holds other settings"):
        propose(env, n=3, out=out, seed=1)
    out.write_text("my notes\n")
    with pytest.raises(UserError, match="holds something else"):
        propose(env, n=3, out=out)
    assert out.read_text() == "my notes\n"
    with pytest.raises(UserError, match="is a directory"):
        propose(env, n=3, out=tmp_path)
    (tmp_path / "empty.jsonl").touch()
    assert propose(env, n=3, out=tmp_path / "empty.jsonl").admitted == 3
    for wrong in ({"n": 0}, {"tries": 0}, {"shots": -1}, {"useful": (0.9, 0.1)}):
        with pytest.raises(UserError, match="give"):
            propose(env, **{"n": 3, "out": tmp_path / "x.jsonl", **wrong})  # type: ignore[arg-type]


def test_a_prover_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="z3-solver is not installed"):
        propose("proofs", n=3, out=tmp_path / "new.jsonl")
    monkeypatch.undo()


def test_examples_in_another_language_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "train"
    own.mkdir()
    (own / "f.dfy").write_text("method f(x: int) returns (r: int)\n  ensures r > x\n{\n}\n")
    env = load_environment("proofs", {"specs": str(tmp_path)})
    shown = Wanted("easy", ((env.task("train", 0), "hard"),))
    with pytest.raises(UserError, match="is in dafny"):
        env.proposer().ask(shown)


def test_an_environment_without_a_proposer(tmp_path: Path) -> None:
    done = puna("propose", "arithmetic", "-o", tmp_path / "x.jsonl")
    assert "arithmetic has no proposer" in done.error
    assert not (tmp_path / "x.jsonl").exists()


class Model:
    """An endpoint that proposes word after word, some of them junk, and solves half of the time."""

    def __init__(self) -> None:
        self.proposed = self.solved = 0
        self.down = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, bytes]:
        asked = body["messages"][-1]["content"]
        if asked[:4] not in ("easy", "medi", "hard", "impo") and not asked.endswith("?"):
            return 200, said("here I am")
        what = "solving" if asked.endswith("?") else "proposing"
        if self.down == what:
            return 400, b"{}"
        if what == "solving":
            self.solved += 1
            return 200, said("abc" if body["seed"] % 2 else "no")
        self.proposed += 1
        return 200, said(("", "same", f"word {self.proposed}")[self.proposed % 3])


def test_a_model_proposes_and_solves_and_what_is_admitted_has_a_pass_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, env = Model(), str(write_odd(tmp_path))
    with serving(model.answer) as url:
        out = tmp_path / "new.jsonl"
        found = propose(env, n=30, out=out, model=url, tries=4, shots=2, concurrency=1)
        asked = model.solved
        again = propose(env, n=30, out=out, model=url, tries=4, shots=2, concurrency=1)
    assert again == found
    assert model.solved == asked  # nothing was asked twice
    assert model.proposed == 30
    reasons = [r["admission"]["reason"] for r in found.records]
    assert reasons.count("not well-formed") == 10
    assert reasons.count("duplicate") == 9
    good = [r for r in found.records if r["admission"]["admitted"]]
    assert len(good) >= 8
    for record in good:
        assert record["admission"]["tried"] == 4
        assert 0 < record["admission"]["passed"] <= 4
        assert record["admission"]["difficulty"] in ("easy", "medium")
        assert record["draft"]["said"] == "abc"
        assert record["target"] in ("easy", "medium", "hard", "impossible")
    print_proposed(found)
    table = capsys.readouterr().out
    assert f"{len(good)} of 30 admitted" in table
    assert "duplicate" in table


def test_an_endpoint_that_is_down_loses_nothing(tmp_path: Path) -> None:
    env, out, model = str(write_odd(tmp_path)), tmp_path / "new.jsonl", Model()
    asked = {"out": out, "tries": 2, "shots": 1, "concurrency": 1}
    with serving(model.answer) as url:
        propose(env, n=32, model=url, **asked)  # type: ignore[arg-type]
        kept = out.read_bytes()
        for down in ("proposing", "solving"):
            model.down = down
            with pytest.raises(UserError, match="the endpoint failed"):
                propose(env, n=40, model=url, **asked)  # type: ignore[arg-type]
            assert out.read_bytes() == kept
        model.down = ""
        assert len(propose(env, n=40, model=url, **asked).records) == 40  # type: ignore[arg-type]


def test_proofs_are_proposed_admitted_and_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("z3", reason="z3-solver is not installed")
    out = tmp_path / "mine.jsonl"
    found = propose("proofs", n=6, out=out, settings={"seconds": 0.5})
    assert isinstance(found, Proposed)
    assert found.admitted >= 4, [r["admission"] for r in found.records]
    env = load_environment("proofs", {"specs": str(out)})
    assert (env.count("train"), env.count("test")) == (found.admitted, 0)
    assert all(spec.reference for spec in specs.read(out)["train"])
    kept = env.task("train", 0).admission
    assert kept is not None
    assert kept["checks"]["mutants"] >= 1
    out.write_text(json.dumps({"number": 0, "draft": None, "admission": {"admitted": False}}))
    with pytest.raises(UserError, match="holds no admitted task"):
        load_environment("proofs", {"specs": str(out)})
