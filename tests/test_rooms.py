"""The rooms of the package: each imports only from rooms before it, wherever the import stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "puna"
ROOMS = (
    "core", "text", "kernels", "models", "engine", "sandbox", "gym", "gateway", "agents", "envs",
    "compat", "evals", "train", "soup", "guard", "export", "report", "serve",
)  # fmt: skip
# They tie the rooms together: a run, a run as an object, a verb, the names.
TIES = ("run.py", "api.py", "cli.py", "__init__.py")
LEAF = "papers"


def room_of(module: str) -> str:
    """`puna.train.rl.loop` -> `train`."""
    return module.split(".")[1] if "." in module else ""


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of `puna`, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names if base == "puna" else [None]:
                yield node.lineno, f"{base}.{alias.name}" if alias else base
        elif isinstance(node, ast.Call):
            yield from _by_name(node)


def _by_name(call: ast.Call) -> Iterator[tuple[int, str]]:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    first = call.args[0] if call.args else None
    if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
        yield call.lineno, str(first.value)


def violations(text: str, module: str) -> list[str]:
    """What in the source of `module` reaches a room that does not come before its own."""
    own, package = room_of(module), module.rpartition(".")[0]
    found = []
    for line, name in imports(ast.parse(text), package):
        if name.split(".")[0] != "puna" or room_of(name) == own:
            continue
        allowed = ("core",) if own == LEAF else ROOMS[: ROOMS.index(own)]
        if room_of(name) not in allowed:
            found.append(f"{module}:{line} imports {name}")
    return found


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name not in TIES)


def test_every_module_lives_in_a_room():
    strangers = {p.relative_to(PACKAGE).parts[0] for p in SOURCES} - {*ROOMS, LEAF}
    assert not strangers


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_to_earlier_rooms_only(room):
    found = []
    for path in SOURCES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[1] == room:
            found += violations(path.read_text(), ".".join(parts))
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import puna.train.loss",
        "from puna.train import loss",
        "from puna import train",
        "from puna.run import execute",
        "import puna.cli as c",
        "def f():\n    from puna.train.loss import cross_entropy",
        "if TYPE_CHECKING:\n    from puna.evals.api import eval",
        "try:\n    import os, puna.report.page\nexcept ImportError: pass",
        "from ..train import loss",
        "from ..evals.api import eval",
        "importlib.import_module('puna.train.loss')",
    ],
)
def test_the_test_sees_every_way_to_break_the_order(source):
    assert len(violations(source, "puna.gym.loop")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import os, torch, puna_like.train",
        "from puna.engine.policy import Sampler",
        "from puna.gym.task import Task",
        "from .task import Task",
        "from ..core import rng",
    ],
)
def test_the_test_lets_the_rest_pass(source):
    assert violations(source, "puna.gym.loop") == []
