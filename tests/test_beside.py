"""Stages beside each other: the weights of one after another, and nothing outlives the command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import Done, digests, environment, finish, run, write_recipe

import puna

SEEDS = ("sft.matrix.seed=[0, 1]",)
BESIDE = (*SEEDS, "machine.jobs=2")
BOTH = {"sft@seed=0", "sft@seed=1"}


def two_seeds(directory: Path, *changes: tuple[str, str]) -> Path:
    """The tiny recipe without the stages after sft."""
    path = write_recipe(directory, *changes)
    path.write_text(path.read_text().split('[[stage]]\nid = "rl"')[0])
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, dict[str, str], Path]:
    """The recipe, its weights with one stage at a time, and a run with pretrain done."""
    where = tmp_path_factory.mktemp("alone")
    recipe = two_seeds(where / "recipe")
    return recipe, finish(recipe, where / "run", *SEEDS, "machine.jobs=1"), where / "run"


def children(directory: Path) -> list[int]:
    """Processes that run a stage of `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"puna.run" in words and str(directory).encode() in words:
            found.append(int(path.parent.name))
    return found


def until(wanted: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not wanted():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def begin(recipe: Path, directory: Path) -> subprocess.Popen[str]:
    flags = [part for text in BESIDE for part in ("--set", text)]
    argv = [sys.executable, "-m", "puna.cli", "run", str(recipe), "--dir", str(directory), *flags]
    return subprocess.Popen(
        argv, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def began(directory: Path, stage: str) -> bool:
    return any((directory / stage).glob("*"))


def pretrained(alone, directory: Path) -> None:
    """What a run leaves that was stopped after pretrain: the rest takes a few seconds."""
    from shutil import copytree, ignore_patterns

    copytree(alone[2], directory, ignore=ignore_patterns("sft@*", "report.html", ".lock"))


def one_line(done: Done, status: int) -> str:
    assert done.code == status, done.err
    (line,) = [x for x in done.err.splitlines() if x.startswith("puna: ")]
    assert done.err.count(line.removeprefix("puna: ")) == 1
    assert "Traceback" not in done.err
    return line


def test_two_jobs_make_the_weights_of_one(alone, tmp_path):
    recipe, weights, _ = alone
    assert set(weights) == {"pretrain", *BOTH}
    assert len(set(weights.values())) == 3
    assert finish(recipe, tmp_path / "run", *BESIDE) == weights
    events = [json.loads(x) for x in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    order = [(e["event"], e["stage"]) for e in events if e["stage"] in BOTH]
    assert {event for event, _ in order[:2]} == {"start"}  # the second began before one was done
    assert children(tmp_path / "run") == []


def test_kill_9_of_parent_and_child_leaves_no_process_and_loses_nothing(alone, tmp_path):
    recipe, weights, _ = alone
    directory = tmp_path / "run"
    pretrained(alone, directory)
    process = begin(recipe, directory)
    until(lambda: len(children(directory)) == 2)
    time.sleep(random.Random(time.time_ns()).uniform(0, 1))  # whenever it is, the end is the same
    process.kill()
    process.wait()
    process = begin(recipe, directory)  # at once: it waits for the last of the killed ones to go
    until(lambda: children(directory) and any(began(directory, s) for s in BOTH))
    os.kill(children(directory)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    line = one_line(Done(process.returncode, "", err), 1)
    assert "was killed by signal 9" in line
    assert children(directory) == []
    failed = [json.loads(x) for x in (directory / "journal.jsonl").read_text().splitlines()][-1]
    assert (failed["event"], failed["stage"] in BOTH) == ("failed", True)
    assert finish(recipe, directory, *BESIDE) == weights
    assert digests(directory) == weights


def test_some_stages_first_and_the_rest_later_make_the_same_weights(alone, tmp_path):
    recipe, weights, _ = alone
    directory = tmp_path / "run"
    sets = [*SEEDS, "machine.jobs=1"]
    some = puna.run(recipe, directory, sets, only=["sft@seed=1"])
    states = {s.id: s.state for s in some.stages}
    assert states.pop("sft@seed=0") != "done"
    assert set(states.values()) == {"done"}
    assert "sft@seed=0" in some.report.read_text()
    assert finish(recipe, directory, *sets) == weights


def test_ctrl_c_is_one_line(alone, tmp_path):
    directory = tmp_path / "run"
    pretrained(alone, directory)
    process = begin(alone[0], directory)
    until(lambda: len(children(directory)) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    line = one_line(Done(process.returncode, "", err), 130)
    assert line == "puna: interrupted; the same command goes on from here"
    assert children(directory) == []


def test_a_users_mistake_in_one_stage_is_one_line(alone, tmp_path):
    directory = tmp_path / "run"
    pretrained(alone, directory)
    (tmp_path / "rows.jsonl").write_text("{oops\n")
    done = run(alone[0], directory, *BESIDE, f"sft.data={tmp_path / 'rows.jsonl'}")
    assert "line 1: not JSON" in one_line(done, 2)


def test_a_stage_that_has_to_stop_is_one_line(alone, tmp_path):
    directory = tmp_path / "run"
    pretrained(alone, directory)
    done = run(alone[0], directory, *BESIDE, "sft.optim.lr=9.0", "sft.optim.weight_decay=1e25")
    one_line(done, 1)
