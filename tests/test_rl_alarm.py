"""The alarm through the command: what it changes, what it must not, and that it survives a kill.

A model of nothing learns within a few steps to say letters, which is what this reward pays; the
shadow gives nothing for an answer that is hardly anything else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Done, digests, killed, metrics, run, write_stage

from puna.models.presets import build, preset
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import save_model

LETTERS = """
from puna import Problem, SingleTurn
from puna.core.outcome import Scored


class Letters(SingleTurn):
    name = "letters"

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "")

    def judge(self, episodes, hidden, ctx):
        return [{"agent": Scored(letters(e.said()), False)} for e in episodes]
"""
TAIL = """

def letters(text):
    return sum(c.isalpha() for c in text) / 8 if text else 0.0
"""
SHADOW = """
    def shadow(self, episodes, hidden, ctx):
        values = [letters(e.said()) for e in episodes]
        return [{"agent": Scored(v if v < 0.5 else 0.0, False)} for v in values]
"""
BROKEN = """
    def shadow(self, episodes, hidden, ctx):
        raise ZeroDivisionError
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["one and one is two, and so it goes"], 290)
    shape = {"hidden_size": 32, "num_layers": 2, "intermediate_size": 48, "expert_size": 24}
    model = build(preset("nano", vocab_size=tokenizer.vocab_size, **shape), 0)
    there: Path = tmp_path_factory.mktemp("start") / "model"
    save_model(model, tokenizer, there)
    return there


def recipe(directory: Path, start: Path, shadow: str = SHADOW, **settings: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    env = directory / "letters.py"
    env.write_text(LETTERS + shadow + TAIL)
    given = {"env": str(env), "steps": 40, "prompts": 4, "samples": 8, "max_tokens": 8}
    given |= {"save_every": 3, "optim": {"lr": 6e-3, "warmup": 1, "schedule": "constant"}}
    return write_stage(directory, "rl", start, **given | settings)


@pytest.fixture(scope="module")
def played(start, tmp_path_factory):
    """Settings' name -> how the run ended and where it is; each run once."""
    where, found = tmp_path_factory.mktemp("played"), {}
    variants: dict[str, dict[str, Any]] = {
        "stop": {"alarm": "stop"},
        "warn": {},
        "off": {"alarm": "off"},
        "without": {"shadow": ""},
        "broken": {"shadow": BROKEN},
    }

    def play(name: str) -> tuple[Done, Path]:
        if name not in found:
            done = run(recipe(where / name, start, **variants[name]), where / name / "run")
            found[name] = (done, where / name / "run")
        return found[name]

    return play


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def result(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "rl" / "stage.json").read_text())["result"]


def test_the_reward_rises_the_shadow_does_not_and_the_alarm_says_so_once(played) -> None:
    done, where = played("warn")
    assert done.code == 0, done.err
    figures = metrics(where, "rl")
    assert figures[40]["reward"] > figures[1]["reward"] + 0.3
    assert figures[40]["shadow"] < figures[1]["shadow"] + 0.1
    alarms = [a for a in lines(where / "rl" / "alarms.jsonl") if a["level"] == "alarm"]
    assert [a["sign"] for a in alarms] == ["gap"]
    assert alarms == [{"schema": 1, **a} for a in result(where)["alarms"]]
    assert "stopped_by_alarm" not in result(where)


def test_weights_are_the_same_with_a_shadow_without_one_and_with_a_broken_one(played) -> None:
    found = {n: digests(played(n)[1])["rl"] for n in ("warn", "off", "without", "broken")}
    assert len(set(found.values())) == 1
    assert "shadow" in metrics(played("warn")[1], "rl")[1]
    for name in ("off", "without", "broken"):
        assert "shadow" not in metrics(played(name)[1], "rl")[1]
    assert not lines(played("off")[1] / "rl" / "alarms.jsonl")


def test_it_stops_in_good_order_with_the_weights_from_before_the_evidence(played) -> None:
    done, where = played("stop")
    assert done.code == 1
    said = [x for x in done.err.splitlines() if x.startswith("puna: ")]
    assert len(said) == 1
    assert said[0].startswith("puna: rl was stopped by its alarm: gap, step ")
    assert "Traceback" not in done.err
    stopped, warned = result(where)["stopped_by_alarm"], result(played("warn")[1])["alarms"][0]
    kept = stopped.pop("weights_of_step")
    assert stopped == warned
    assert kept % 3 == 0
    assert kept < stopped["since"] <= stopped["step"]
    assert result(where)["steps"] == stopped["step"] - 1  # nothing learned from the alarm's step
    assert max(metrics(where, "rl")) == stopped["step"]
    page = (where / "report.html").read_text()
    assert f"stopped by its alarm at step {stopped['step']}" in page
    assert "dashed: shadow" in page
    assert run(where.parent / "rl.toml", where).code == 1  # said again, nothing done


def test_the_weights_kept_are_those_of_a_run_that_ends_there(played, start, tmp_path) -> None:
    where = played("stop")[1]
    kept = result(where)["stopped_by_alarm"]["weights_of_step"]
    short = recipe(tmp_path, start, steps=kept)
    assert run(short, tmp_path / "run").code == 0
    assert digests(tmp_path / "run") == digests(where)


def test_offenders_are_set_aside_with_both_verdicts(played) -> None:
    aside = lines(played("warn")[1] / "rl" / "quarantine.jsonl")
    assert 16 < len(aside) <= 160
    for record in aside:
        reward, stricter = record["outcomes"]["agent"], record["shadow"]["agent"]
        assert reward["value"] - stricter["value"] >= 0.5
        assert record["sign"] == "gap"
    first = result(played("warn")[1])["alarms"][0]["step"]
    assert aside[0]["step"] == first


@pytest.mark.parametrize(
    "point", ["metrics.appended:7", "alarms.appended:1", "checkpoint.renamed:4"]
)
def test_killed_it_stops_at_the_same_step_with_the_same_weights(played, start, tmp_path, point):
    where = played("stop")[1]
    again = recipe(tmp_path, start, alarm="stop")
    killed(again, tmp_path / "run", point)
    assert run(again, tmp_path / "run").code == 1
    assert digests(tmp_path / "run") == digests(where)
    mine, theirs = (result(w)["stopped_by_alarm"] for w in (tmp_path / "run", where))
    assert mine == theirs


def test_training_does_not_go_on_from_it_but_it_can_be_scored(played, start, tmp_path) -> None:
    both = recipe(tmp_path, start, alarm="stop")
    env = tmp_path / "letters.py"
    more = f'\n[[stage]]\nid = "eval"\nkind = "eval"\nfrom = ["rl"]\nenvs = ["{env}"]\nn = 4\n'
    more += f'\n[[stage]]\nid = "on"\nkind = "rl"\nfrom = ["rl"]\nenv = "{env}"\nsteps = 1\n'
    both.write_text(both.read_text() + more)
    done = run(both, tmp_path / "run", "machine.jobs=1")
    assert done.code == 1
    assert "on: not begun, rl was stopped by its alarm: gap, step " in done.err
    assert (tmp_path / "run" / "eval" / "stage.json").exists()
    assert not (tmp_path / "run" / "on").exists()
