"""A recipe that raises a model in a second, and the command run on it in processes of their own.

Importing PyTorch and its optimisers costs three seconds, so `puna` forks each run off a process
that has done it once (and computed nothing); `real` starts Python anew.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.api import _toml as toml

REPOSITORY = Path(__file__).parent.parent

RECIPE = """
name = "tiny"
seed = 3

[machine]
dtype = "float32"
threads = 1

[[stage]]
id = "pretrain"
kind = "pretrain"
data = "{data}"
vocab = 300
steps = 4
batch_tokens = 256
row_length = 64
eval_bytes = 2000
sample_every = 0
save_every = 2
with_baselines = false
held_out = 20.0

[stage.model]
preset = "nano"
hidden_size = 32
num_layers = 2
num_heads = 2
num_kv_heads = 1
intermediate_size = 48
expert_size = 24

[[stage]]
id = "sft"
kind = "sft"
from = ["pretrain"]
env = "arithmetic"
demos = 24
steps = 6
batch_tokens = 256
row_length = 64
eval_every = 3
eval_tasks = 4
max_tokens = 4
save_every = 2
optim = {{ lr = 2e-3, warmup = 1 }}

[[stage]]
id = "rl"
kind = "rl"
from = ["sft"]
env = {{ id = "{env}" }}
steps = 4
prompts = 2
samples = 4
refills = 1
unaudited = true
max_tokens = 4
save_every = 2
optim = {{ lr = 2e-3, warmup = 1, schedule = "constant", weight_decay = 0.0 }}

[[stage]]
id = "eval"
kind = "eval"
from = ["pretrain", "sft", "rl"]
envs = ["arithmetic"]
n = 16
max_tokens = 4
"""

# A small model never solves arithmetic, and groups without signal would leave RL nothing to do.
SHORTEST = '''
import random
import time

from puna import Problem, SingleTurn


class Brief(SingleTurn):
    """Every answer is scored by its length, so that any model gets a signal."""

    name = "brief"

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "")

    def score(self, answer, problem):
        time.sleep(random.random() / 1000)  # verdicts come in any order
        return 1 / (1 + len(answer.encode()))

    def judge(self, episodes, hidden, ctx):  # answers that were cut off count too
        from puna.core.outcome import Scored

        values = [self.score(e.said(), hidden["problem"]) for e in episodes]
        return [{"agent": Scored(v, False)} for v in values]
'''


def write_stage(directory: Path, kind: str, init: Path, **settings: Any) -> Path:
    """A recipe of one short stage that starts from the model in `init`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "brief.py").write_text(SHORTEST)
    table: dict[str, Any] = {"id": kind, "kind": kind, "init": str(init), "save_every": 2}
    table |= {"optim": {"lr": 2e-3, "warmup": 1}, "max_tokens": 4}
    if kind == "rl":
        table |= {"env": str(directory / "brief.py"), "steps": 4, "prompts": 2, "samples": 4}
        table |= {"unaudited": True}  # its shortest answers are paid, whatever they say
    else:
        table |= {"steps": 4, "batch_tokens": 256, "row_length": 64}
    lines = [f"{k} = {toml(v)}" for k, v in (table | settings).items() if v is not None]
    head = 'name = "one"\nseed = 3\n[machine]\ndtype = "float32"\nthreads = 1\n[[stage]]\n'
    path = directory / f"{kind}.toml"
    path.write_text(head + "\n".join(lines) + "\n")
    return path


def write_recipe(directory: Path, *changes: tuple[str, str]) -> Path:
    """The recipe with its text and its environment in `directory`; `changes` replace its lines."""
    text = directory / "text"
    text.mkdir(parents=True)
    for number in range(8):
        lines = [f"word{i * i % (17 + number)} is {i} and {number}" for i in range(70)]
        (text / f"{number}.txt").write_text("\n".join(lines))
    (directory / "brief.py").write_text(SHORTEST)
    recipe = RECIPE.format(data=text, env=directory / "brief.py")
    for old, new in changes:
        assert old in recipe, f"{old!r} is not in the recipe"
        recipe = recipe.replace(old, new, 1)
    path = directory / "tiny.toml"
    path.write_text(recipe)
    return path


@dataclass(frozen=True)
class Done:
    """How a command ended; a signal's number is negative, as in `subprocess`."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def error(self) -> str:
        """The one line of a user's mistake. Fails where the command ended otherwise."""
        assert self.code == 2, f"exit {self.code}: {self.err}"
        lines = [x for x in self.err.splitlines() if x.startswith("puna: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: this package, one thread, no crash asked for."""
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith("PUNA_") or k == "PUNA_AUDITS"
    }
    ours = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**inherited, **ours, **(extra or {})}


def real(*args: str | Path) -> Done:
    """Run the command in a Python of its own, as a user does."""
    argv = [sys.executable, "-m", "puna.cli", *map(str, args)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=280)
    return Done(done.returncode, done.stdout, done.stderr)


@functools.cache
def _nursery() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def puna(*args: str | Path, crash: str = "", trace: Path | None = None, **options: Any) -> Done:
    """Run the command to its end in a forked process.

    `crash` and `trace` are PUNA_CRASH_AT and PUNA_CRASH_TRACE; options: `kill_after` (seconds),
    `uid`, `file_limit` (bytes that a file may have), `cwd`.
    """
    env = {"PUNA_CRASH_AT": crash, "PUNA_CRASH_TRACE": str(trace or "")}
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        for name in ("out", "err"):  # it may be killed before it has opened them
            Path(place, name).touch()
        request = {"args": [str(a) for a in args], "env": env, "place": place, **options}
        process = _nursery()
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(request), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
        texts = [Path(place, name).read_text() for name in ("out", "err")]
        return Done(answer["code"], *texts, answer["seconds"])


def _serve() -> None:
    """Fork a child for each request on standard input, and say how it ended."""
    import matplotlib.figure  # noqa: F401 - what every run needs, loaded once
    import torch._dynamo  # noqa: F401
    import tyro  # noqa: F401
    from matplotlib.backends import backend_svg  # noqa: F401

    import puna.evals.stage
    import puna.report.terminal
    import puna.run
    import puna.train.rl.loop  # noqa: F401
    from puna import cli

    gc.freeze()
    for line in sys.stdin:
        request, begun = json.loads(line), time.monotonic()
        pid = os.fork()
        if pid == 0:
            _become(request)
            code = 1
            try:
                code = cli.main(request["args"])
            except BaseException as error:
                code = error.code if isinstance(error, SystemExit) else 1
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code or 0)  # taking PyTorch down in order would cost a second
        limit = request.get("kill_after", 250.0)
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() - begun > limit:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(ended[1])
        print(json.dumps({"code": code, "seconds": time.monotonic() - begun}), flush=True)


def _become(request: Mapping[str, Any]) -> None:
    """What a fresh process of the request would be."""
    os.environ.update({k: v for k, v in request["env"].items() if v})
    os.chdir(request.get("cwd", request["place"]))
    sys.stdin = open(os.devnull)  # noqa: SIM115 - the process ends with it
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(request["place"], name), os.O_WRONLY | os.O_CREAT, 0o666), number)
    if "file_limit" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    if "uid" in request:
        os.setgroups([])
        os.setgid(request["uid"])
        os.setuid(request["uid"])


def run(
    recipe: Path, directory: Path, *sets: str, only: Sequence[str] = (), **options: Any
) -> Done:
    """`puna run recipe --dir directory --set ... --only ...`."""
    flags = [part for text in sets for part in ("--set", text)]
    flags += [part for name in only for part in ("--only", name)]
    return puna("run", recipe, "--dir", directory, *flags, **options)


def finish(recipe: Path, directory: Path, *sets: str) -> dict[str, str]:
    """Run a recipe that must succeed; the digests of its weights."""
    done = run(recipe, directory, *sets)
    assert done.code == 0, done.err
    return digests(directory)


def killed(recipe: Path, directory: Path, point: str, *sets: str) -> None:
    """Run a recipe into `kill -9` at a crash point."""
    done = run(recipe, directory, *sets, crash=point)
    assert done.code == -signal.SIGKILL, f"{point}: {done.code} {done.err}"


def digests(directory: Path) -> dict[str, str]:
    """Stage -> hash of its weights, for every finished stage that has some."""
    records = [json.loads(p.read_text()) for p in sorted(directory.glob("*/stage.json"))]
    return {r["id"]: r["weights"] for r in records if "weights" in r}


def metrics(directory: Path, stage: str) -> dict[int, dict[str, Any]]:
    """Step -> the last figures of it."""
    lines = (directory / stage / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r for r in map(json.loads, lines)}


if __name__ == "__main__":
    _serve()
