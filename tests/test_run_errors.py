"""A user's mistake through the real command: one line, exit status 2, and nothing is lost."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_run import (
    digests,
    environment,
    finish,
    killed,
    metrics,
    puna,
    real,
    run,
    write_recipe,
    write_stage,
)

from puna.core.journal import read
from puna.report.read import open_run

NOBODY = 65534
CHAT = {"messages": [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path, dict[str, str]]:
    """A recipe, its finished run, the weights."""
    where = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(where / "recipe")
    return recipe, where / "run", finish(recipe, where / "run")


@pytest.fixture
def start(finished) -> Path:
    """A model to start from."""
    return finished[1] / "sft" / "model"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rl.stepz=5", "unknown key 'stepz'; did you mean 'steps'?"),
        ("evel.n=5", "no stage 'evel'; did you mean 'eval'?"),
        ("sft.optim.learning_rate=1", "sft.optim: unknown key 'learning_rate'; known: beta1"),
        ("sft.optim.lrr=1", "did you mean 'lr'?"),
        ("rl.steps=fifty", "rl.steps is 'fifty' (str); give a int"),
        ("rl.steps=true", "rl.steps is True"),
        ("rl.steps=0", "rl: steps is 0, must be at least 1"),
        ("rl.temperature=0", "temperature is 0.0, must be above 0"),
        ("rl.algorithm=gppo", "did you mean 'grpo'?"),
        ("sft.optim.lr=-1", "lr is -1.0"),
        ("rl.steps", "not of the form key=value; e.g. --set rl.steps=50"),
        ("sed=1", "unknown key; did you mean 'seed'?"),
        ("rl.steps.x=1", "'steps' is not a table"),
        ("machine.thread=1", "machine: unknown key 'thread'; did you mean 'threads'?"),
        ("machine.threads=-1", "threads is -1, must be at least 0"),
        ("machine=3", "machine is 3"),
        ("eval.n=0", "eval: n is 0, must be at least 1"),
        ("eval.k=0", "k is 0"),
        ("eval.max_tokens=0", "max_tokens is 0"),
        ("eval.slots=0", "slots is 0"),
        ("eval.temperature=-1.0", "temperature is -1.0, must be 0 or more"),
        ("eval.envs=[]", "envs is empty"),
        ("sft.env.since=2024-01-01", "sft.env.since is 2024-01-01 (a date); write text in quotes"),
        ("sft.optim.lr=nan", "sft.optim.lr is nan; give a finite number"),
        ("eval.from=[]", "stage 'eval': nothing to evaluate"),
        ("eval.rounds=2", "from names 'eval.1', an eval stage without a model"),
    ],
)
def test_a_wrong_setting(finished, tmp_path, change, said):
    assert said in run(finished[0], tmp_path / "run", change).error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "rl"', 'kind = "rll"', "unknown kind 'rll'; did you mean 'rl'?"),
        ('from = ["sft"]', 'from = ["sftt"]', "no earlier stage 'sftt'; did you mean 'sft'?"),
        ('name = "tiny"', 'nam = "tiny"', "unknown key 'nam'; did you mean 'name'?"),
        ("steps = 6", "steps = ", "is not valid TOML"),
        ('id = "eval"', 'id = "evals"', "stage id 'evals' is taken"),
        ('id = "eval"', 'id = "tensorboard"', "stage id 'tensorboard' is taken"),
        ('kind = "rl"', 'kind = "eval"\nenvs = ["arithmetic"]', "rl: unknown key"),
        ('id = "sft"', 'id = "pretrain"', "two stages have the id 'pretrain'"),
    ],
)
def test_a_wrong_recipe(tmp_path, old, new, said):
    recipe = write_recipe(tmp_path / "recipe", (old, new))
    assert said in run(recipe, tmp_path / "run").error
    assert not (tmp_path / "run").exists()


def test_no_such_recipe(tmp_path):
    assert "no recipe" in run(tmp_path / "none.toml", tmp_path / "run").error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rl.env=aritmetic", "no environment 'aritmetic'; did you mean 'arithmetic'?"),
        ("eval.envs=['nope']", "no environment 'nope'"),
        ("sft.env.terms=99", "terms is 99, must be 2 to 8"),
        ("sft.env.term=2", "unknown key 'term'; did you mean 'terms'?"),
        ("rl.env=./none.py", "no environment file none.py"),
        ("sft.data=none.jsonl", "sft.data: no file or directory none.jsonl"),
        ("pretrain.data=/nowhere", "pretrain.data: no file or directory /nowhere"),
        ("rl.frozen.agent=/nowhere", "rl.frozen.agent: no directory /nowhere"),
        ("machine.device=abacus", "machine.device is 'abacus'"),
        ("machine.dtype=int8", "machine.dtype is 'int8'"),
    ],
)
def test_what_a_late_stage_lacks_is_said_before_the_first_begins(finished, tmp_path, change, said):
    assert said in run(finished[0], tmp_path / "run", change).error
    assert not (tmp_path / "run" / "pretrain").exists()
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no files"),
        ({"a.txt": b""}, "no text in"),
        ({"a.bin": bytes(range(256)) * 100}, "no text in"),
        ({"a.txt": b"a few words\n"}, "are needed"),
    ],
)
def test_text_to_pretrain_on(tmp_path, files, said):
    recipe = write_recipe(tmp_path / "recipe")
    text = tmp_path / "recipe" / "text"
    for path in text.iterdir():
        path.unlink()
    for name, data in files.items():
        (text / name).write_bytes(data)
    assert said in run(recipe, tmp_path / "run").error


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.jsonl", b"", "has no rows"),
        ("blank.jsonl", b"\n \n", "has no rows"),
        ("binary.jsonl", bytes(range(256)), "is not UTF-8 text (byte 128)"),
        ("bad.jsonl", (json.dumps(CHAT) + "\n").encode() * 6 + b"{oops\n", "line 7: not JSON"),
        ("role.jsonl", (json.dumps(CHAT) + "\n").encode() * 6
         + b'{"messages": [{"role": "king", "content": ""}]}', "line 7: role is 'king'"),
        ("list.jsonl", b"[1]", "line 1: a row must be an object, not list"),
        ("broken.parquet", b"PAR1 and then nothing", "is not a readable Parquet file"),
    ],
)  # fmt: skip
def test_rows_for_sft(start, tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    recipe = write_stage(tmp_path, "sft", start, data=str(tmp_path / name))
    line = run(recipe, tmp_path / "run").error
    assert said in line
    assert name in line


def test_rows_too_long_for_sft(start, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(CHAT))
    recipe = write_stage(tmp_path, "sft", start, data=str(tmp_path / "a.jsonl"), row_length=4)
    assert "no conversation fits row_length 4" in run(recipe, tmp_path / "run").error


def test_jsonl_and_parquet_of_the_same_rows_give_the_same_weights(start, tmp_path):
    # Text with U+2028 in it, which JSON allows raw and which is no line's end.
    odd = {"role": "user", "content": "a\u2028b\x85c"}
    rows = [CHAT, {"messages": [*CHAT["messages"], odd, *CHAT["messages"]]}] * 4
    (tmp_path / "a.jsonl").write_text(
        "\ufeff" + "\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8"
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = []
    for name in ("a.jsonl", "a.parquet"):
        recipe = write_stage(tmp_path, "sft", start, data=str(tmp_path / name))
        found.append(finish(recipe, tmp_path / f"run-{name}"))
    assert found[0] == found[1]
    stage = json.loads((tmp_path / "run-a.jsonl" / "sft" / "stage.json").read_text())
    assert stage["result"]["rows"] == 8


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("file", ["optimizer.safetensors", "model.safetensors", "checkpoint.json"])
def test_a_truncated_checkpoint_is_named_and_the_one_before_serves(finished, tmp_path, file):
    recipe, _, weights = finished
    killed(recipe, tmp_path / "run", "checkpoint.renamed:2")
    steps = sorted((tmp_path / "run" / "pretrain" / "checkpoints").iterdir())
    assert [p.name for p in steps] == ["step-00000002", "step-00000004"]
    _cut(steps[1] / file)
    done = run(recipe, tmp_path / "run", crash="checkpoint.renamed:1")
    assert f"checkpoint {steps[1]} is broken ({file}" in done.err
    assert "going on from step 2" in done.err
    if file == "optimizer.safetensors":  # once is enough
        assert finish(recipe, tmp_path / "run") == weights


def test_all_checkpoints_broken(finished, tmp_path):
    recipe, _, _ = finished
    killed(recipe, tmp_path / "run", "checkpoint.renamed:2")
    for path in (tmp_path / "run").rglob("model.safetensors"):
        _cut(path)
    line = run(recipe, tmp_path / "run").error
    stage = tmp_path / "run" / "pretrain"
    assert f"every checkpoint in {stage / 'checkpoints'} is broken" in line
    assert f"remove {stage} to begin this stage again" in line


def test_another_recipes_directory(finished):
    recipe, directory, weights = finished
    line = run(recipe, directory, "sft.steps=7").error
    assert "holds another recipe's run (sft.steps: there 6, here 7)" in line
    assert digests(directory) == weights


def test_a_stage_that_has_not_begun_may_still_be_changed(finished, tmp_path):
    """Else whoever mends a mistake in a later stage had to begin again."""
    recipe, _, weights = finished
    killed(recipe, tmp_path / "run", "stage.tidied:2", "rl.steps=5")
    line = run(recipe, tmp_path / "run", "pretrain.steps=5").error
    assert "pretrain.steps: there 4, here 5" in line
    assert finish(recipe, tmp_path / "run") == weights
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [s["steps"] for s in record["stages"] if s["id"] == "rl"] == [4]


def test_a_stage_made_from_another_parent_is_named(finished, tmp_path):
    """A parent that was made again, otherwise, leaves its children's results without a meaning."""
    recipe, done, weights = finished
    directory = tmp_path / "run"
    shutil.copytree(done, directory)
    assert finish(recipe, directory) == weights
    shutil.rmtree(directory / "sft")
    times = {p: p.stat().st_mtime_ns for p in directory.glob("rl/**/*.safetensors")}
    assert finish(recipe, directory) == weights  # made again the same, whatever time it took
    shutil.rmtree(directory / "sft")
    line = run(recipe, directory, "sft.steps=5").error
    assert "stage 'rl' was made from another 'sft' than the one there now; remove " in line
    assert line.endswith(f"remove {directory / 'rl'} to run it again")
    assert times == {p: p.stat().st_mtime_ns for p in directory.glob("rl/**/*.safetensors")}
    shutil.rmtree(directory / "rl")
    line = run(recipe, directory, "sft.steps=5").error
    assert "stage 'eval' was made from another 'sft'" in line
    shutil.rmtree(directory / "eval")
    assert finish(recipe, directory, "sft.steps=5") == finish(
        recipe, tmp_path / "fresh", "sft.steps=5"
    )


def test_a_begun_stage_does_not_go_on_from_another_parents_checkpoints(finished, tmp_path):
    recipe, directory = finished[0], tmp_path / "run"
    killed(recipe, directory, "checkpoint.renamed:7")
    assert list((directory / "rl" / "checkpoints").iterdir())
    shutil.rmtree(directory / "sft")
    line = run(recipe, directory, "sft.steps=5").error
    assert "stage 'rl' was made from another 'sft'" in line


def test_why_a_stage_failed_is_kept(start, tmp_path):
    recipe = write_stage(tmp_path, "sft", start, data=str(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text("{oops")
    line = run(recipe, tmp_path / "run", "sft.steps=3").error
    stage = open_run(tmp_path / "run").stage("sft")
    assert (stage.state, f"puna: {stage.error}") == ("failed", line)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sets"] == ["sft.steps=3"]


def test_a_device_that_has_gone(finished, tmp_path):
    recipe, directory = finished[0], tmp_path / "run"
    killed(recipe, directory, "stage.tidied:1")
    record = json.loads((directory / "run.json").read_text())
    record["machine"]["device"] = "cuda:99"
    (directory / "run.json").write_text(json.dumps(record))
    assert "was begun on 'cuda:99', which is not on this machine" in run(recipe, directory).error


def test_what_others_left_aside_stays_where_the_run_is_not_ours(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "run")
    (tmp_path / "run" / ".mine.tmp").write_text("unsaved")
    assert "holds another recipe's run" in run(finished[0], tmp_path / "run", "sft.steps=7").error
    assert (tmp_path / "run" / ".mine.tmp").exists()
    finish(finished[0], tmp_path / "run")
    assert not (tmp_path / "run" / ".mine.tmp").exists()


def test_eval_and_chat_take_the_runs_machine_and_seed(finished, tmp_path):
    """The eval stage's scores come out of `puna eval` again, task by task."""
    _, directory, _ = finished
    ours = list(read(directory / "eval" / "episodes-rl-arithmetic.jsonl"))
    for number, target in enumerate((directory, directory / "rl", directory / "rl" / "model")):
        out = tmp_path / str(number)
        args = ["eval", target, "-n", "16", "--max-tokens", "4", "--out", out]
        assert puna(*args).code == 0
        (where,) = out.iterdir()
        facts = json.loads((where / "result.json").read_text())["facts"]
        assert (facts["dtype"], facts["threads"]) == ("float32", 1)
        assert (facts["seed"], facts["env_seed"]) == (3, 3)
        theirs = list(read(where / "episodes.jsonl"))
        assert [(r["task"], r["transcripts"]) for r in theirs] == [
            (r["task"], r["transcripts"]) for r in ours
        ]
    assert puna("eval", directory, "-n", "16", "--seed", "4", "--out", tmp_path / "x").code == 0
    (where,) = (tmp_path / "x").iterdir()
    asked = [r["transcripts"][0][0] for r in read(where / "episodes.jsonl")]
    assert asked == [r["transcripts"][0][0] for r in ours]  # other streams, the same tasks


def test_a_directory_with_strangers(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".editor.tmp").write_text("unsaved")  # named as our own leftovers are
    line = run(finished[0], tmp_path).error
    assert f"{tmp_path} is not empty and holds no run" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == [".editor.tmp", "mine.txt"]


def test_a_file_in_the_way(finished, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert "cannot write" in run(finished[0], tmp_path / "run").error
    assert "cannot write" in run(finished[0], tmp_path / "run" / "deeper").error
    assert (tmp_path / "run").read_text() == "mine"


def test_broken_records(finished, tmp_path):
    recipe, directory, _ = finished
    (tmp_path / "run.json").write_text("{")
    assert "run.json is broken" in run(recipe, tmp_path).error
    (tmp_path / "run.json").write_text((directory / "run.json").read_text())
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "stage.json").write_text("{")
    assert f"remove {tmp_path / 'pretrain'}" in run(recipe, tmp_path).error


def test_two_runs_in_one_directory(finished):
    recipe, directory, weights = finished
    with open(directory / ".lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # even one that only reads would keep a writer out
        lock.truncate(0)
        lock.write("process 4711")
        lock.flush()
        line = run(recipe, directory).error
    assert f"{directory} is in use by process 4711; wait for it" in line
    assert digests(directory) == weights


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory whose parents everybody may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)
        for path in Path(place).rglob("*"):
            path.chmod(0o755)


def test_no_permission(open_place):
    recipe = write_recipe(open_place / "recipe")
    (open_place / "closed").mkdir()
    (open_place / "closed").chmod(0o555)
    (open_place / "hidden").mkdir(mode=0o700)
    (open_place / "hidden").chmod(0o000)
    options = {"uid": NOBODY} if os.getuid() == 0 else {}
    line = run(recipe, open_place / "closed" / "run", **options).error
    assert f"cannot write {open_place / 'closed' / 'run'}: Permission denied" in line
    assert "choose a directory you may write to" in line
    assert "ermission denied" in run(open_place / "hidden" / "x.toml", open_place, **options).error


@pytest.mark.parametrize("limit", [3_000, 30_000, 90_000])
def test_a_file_that_cannot_grow(finished, tmp_path, limit):
    """Every kind of file in turn is the one for which there is no room."""
    recipe, _, weights = finished
    line = run(recipe, tmp_path / "run", file_limit=limit).error
    assert "cannot write" in line
    assert "File too large" in line
    assert not list((tmp_path / "run").rglob("*.tmp"))
    if limit == 90_000:
        assert finish(recipe, tmp_path / "run") == weights


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True
    )
    if done.returncode:
        pytest.skip("needs root to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk(finished, tmp_path):
    recipe, _, weights = finished
    disk = tmp_path / "disk"
    with small_disk(disk, "600k"):
        line = run(recipe, disk / "run").error
        assert "No space left on device; free some space and run the same command again" in line
        assert "checkpoint" in line or "step-" in line
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert finish(recipe, disk / "run") == weights


def test_weights_that_blow_up_stop_the_stage_and_keep_the_last_good_checkpoint(start, tmp_path):
    optim = {"lr": 9.0, "warmup": 3, "weight_decay": 1e25}
    recipe = write_stage(tmp_path, "sft", start, env="arithmetic", demos=8, steps=9, save_every=1,
                         optim=optim)  # fmt: skip
    for _ in range(2):  # again: it goes on from the checkpoint and meets the same
        done = run(recipe, tmp_path / "run")
        assert done.code == 1, done.err
        last = done.err.splitlines()[-1]
        assert last.startswith("puna: sft: ")
        assert "the last good checkpoint is kept; lower sft.optim.lr" in last
        assert "Traceback" not in done.err
    assert list((tmp_path / "run" / "sft" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "sft" / "model").exists()
    assert "going on from step" in done.err


RAISES = """
from puna import Problem, SingleTurn


class Broken(SingleTurn):
    name = "broken"

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "")

    def score(self, answer, problem):
        raise KeyError("no such table")

    def judge(self, episodes, hidden, ctx):  # answers that were cut off are judged too
        from puna.core.outcome import Scored

        values = [self.score(e.said(), hidden["problem"]) for e in episodes]
        return [{"agent": Scored(v, False)} for v in values]
"""


def test_a_verifier_that_raises_stops_rl_and_says_why(start, tmp_path):
    (tmp_path / "broken.py").write_text(RAISES)
    recipe = write_stage(tmp_path, "rl", start, env=str(tmp_path / "broken.py"))
    done = run(recipe, tmp_path / "run")
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "100% of outcomes at step 1 were not scored" in last
    assert "KeyError('no such table')" in last
    assert "broken.py:" in last
    assert "Traceback" not in done.err


SOMETIMES = RAISES.replace("Broken", "Sometimes").replace(
    '        raise KeyError("no such table")',
    "        if int(problem.prompt[:-1]) % 4 == 0:\n"
    "            raise KeyError('no such table')\n"
    "        return 1 / (1 + len(answer.encode()))",
)


def test_few_failures_of_the_verifier_are_counted_and_left_out(start, tmp_path):
    (tmp_path / "sometimes.py").write_text(SOMETIMES)
    settings = {"env": str(tmp_path / "sometimes.py"), "prompts": 8, "refills": 0}
    recipe = write_stage(tmp_path, "rl", start, **settings)
    finish(recipe, tmp_path / "run")
    figures = metrics(tmp_path / "run", "rl").values()
    assert sum(f["infra"] for f in figures) > 0
    assert all(f["infra"] + f["scored"] == 32 for f in figures)
    assert all(f["rows"] <= f["scored"] for f in figures)
    assert all(f["reward"] > 0.05 for f in figures)  # counted 0 they would pull it down
    strict = write_stage(tmp_path, "rl", start, max_failed=0.0, **settings)
    assert run(strict, tmp_path / "strict").code == 1


def interrupted(recipe: Path, directory: Path, sign: Path) -> tuple[int, str]:
    """The command in a Python of its own, sent Ctrl-C as soon as the file `sign` is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "puna.cli", "run", str(recipe), "--dir", str(directory)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not sign.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    return process.returncode, err


@pytest.mark.parametrize("staleness", [0, 1])
def test_ctrl_c_in_rl_and_on_again(start, tmp_path, staleness):
    recipe = write_stage(tmp_path, "rl", start, steps=24, save_every=4, staleness=staleness)
    directory = tmp_path / "run"
    sign = directory / "rl" / "checkpoints" / "step-00000004"
    code, err = interrupted(recipe, directory, sign)
    assert code == 130, err
    assert err.splitlines()[-1] == "puna: interrupted; the same command goes on from here"
    assert "Traceback" not in err
    assert not (directory / "rl" / "stage.json").exists()
    assert finish(recipe, directory) == finish(recipe, tmp_path / "left-alone")


def test_the_real_command_says_it_too(tmp_path):
    done = real("run", tmp_path / "none.toml")
    assert f"puna: no recipe '{tmp_path / 'none.toml'}'" in done.error
    assert done.out == ""
