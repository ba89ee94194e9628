"""Scorers of reasoning-gym that evaluate the answer as code: `eval`, or SymPy's parser over it.

`score_in_jail(dataset, answer, entry)` runs one in the sandbox. What was evaluated there may still
say what it likes about its own score (`FORGERY`): such a dataset is not to be trained on, and its
audit says so.
"""

from __future__ import annotations

import atexit
import importlib.util
import inspect
import json
import os
import pickle
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from puna.compat import alone
from puna.sandbox import Job, Limits, Mounts, Sandbox, open_sandbox
from puna.sandbox.backends import CHOICE
from puna.sandbox.outer import PACKAGES

# A call of theirs on anything but the task's own entry.
_EVALUATES = re.compile(r"\b(eval|exec|parse_expr|sympify)\((?!entry\b|metadata\b)")
# No call, attribute, power, factorial, shift, loop, 1e9: nothing that runs for long or reaches out.
_HARMLESS = re.compile(r"(?!.*\d_*[eE])(?!.*for(?!\w))[\w\s,;:'\"?/\[\]=-]{0,10000}", re.DOTALL)
FORGERY = """__import__('os').write(3, b'{"score": 1.0}') and __import__('os')._exit(0)"""
_FOLDER, _SCORER_FOLDER = "/run/reasoning_gym", "/run/scorer"
LIMITS = Limits(wall_s=30.0, cpu_s=1.0)
# What a scorer does first is slow (SymPy imports and remembers a lot): done once, before the forks.
_MODULE = """
from alone import import_alone
import_alone("reasoning_gym.coaching.base_curriculum")
module = import_alone({module!r})
dataset = module.{dataset}(config=module.{config}(seed=0))
entry = dataset[0]
for answer in (str(entry["answer"]), "x", "0.5"):
    try:
        dataset.score_answer(answer, entry)
    except Exception:
        pass
"""
_SCORER = """
import json, os, pickle, sys
report = os.fdopen(3, "w")
sys.path += json.loads(sys.argv[1])
import scorer
with open("given", "rb") as file:
    cls, config, answer, entry = pickle.load(file)
os.unlink("given")
dataset = cls(config=config)
try:
    told = {"score": float(dataset.score_answer(answer, entry))}
except Exception as error:
    told = {"error": f"{type(error).__name__}: {error}"[:300]}
report.write(json.dumps(told))
report.flush()
"""
_opened: dict[tuple[str, str], tuple[Sandbox, str]] = {}
_lock = threading.Lock()


def evaluates(cls: type) -> bool:
    """Whether the scorer of dataset class `cls` evaluates the answer, as its source says."""
    found = _EVALUATES.findall(inspect.getsource(cls.score_answer))  # type: ignore[attr-defined]
    scope = vars(sys.modules[cls.__module__])
    return any(getattr(scope.get(n), "__module__", "") != cls.__module__ for n in found)


def harmless(answer: str) -> bool:
    """Whether evaluating `answer` can do nothing: such an answer needs no jail."""
    return _HARMLESS.fullmatch(answer) is not None


def score_in_jail(dataset: Any, answer: str, entry: dict[str, Any]) -> float:
    """`dataset.score_answer(answer, entry)` in the sandbox; 0 where the answer broke that process.

    Raises RuntimeError for what the scorer raises, SandboxError where the machinery fails,
    TimeoutError where the machine was too slow, and UserError where there is no sandbox.
    """
    cls = type(dataset)
    sandbox, scorer = _sandbox(cls, type(dataset.config))
    job = Job.python(
        _SCORER,
        json.dumps([_SCORER_FOLDER, _FOLDER, PACKAGES, scorer, *sys.path]),
        files={"given": pickle.dumps((cls, dataset.config, answer, entry))},
        limits=LIMITS,
        report=True,
    )
    result = sandbox.run_now(job)
    if result.reason == "wall":
        raise TimeoutError(f"scoring took longer than {LIMITS.wall_s:g} s")
    try:
        told = json.loads(result.report)
        if "error" in told:
            raise RuntimeError(str(told["error"]))
        return float(told["score"])
    except (ValueError, TypeError, KeyError):
        return 0.0


def _sandbox(cls: type, config: type) -> tuple[Sandbox, str]:
    """One in which the dataset has scored already, and the folder of what makes it do so."""
    backend, module = os.environ.get(CHOICE, "auto"), cls.__module__
    with _lock:
        if (backend, module) not in _opened:
            spec = importlib.util.find_spec("reasoning_gym")
            made = tempfile.TemporaryDirectory(prefix="puna-scorer-")
            atexit.register(made.cleanup)
            scorer = Path(made.name)
            scorer.chmod(0o755)  # a job is another user
            (scorer / "alone.py").write_text(inspect.getsource(alone))
            names = {"module": module, "dataset": cls.__name__, "config": config.__name__}
            (scorer / "scorer.py").write_text(_MODULE.format(**names))
            folders = {
                _SCORER_FOLDER: scorer,
                _FOLDER: Path(str(spec and spec.origin)).parent.parent,
            }
            mounts = Mounts(folders=folders, packages=True, loaded=("scorer",))
            _opened[backend, module] = open_sandbox(backend, mounts), made.name
            atexit.register(_opened[backend, module][0].close)
        return _opened[backend, module]
