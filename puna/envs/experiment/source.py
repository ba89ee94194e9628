"""A repository and the command that measures it: what a research task is made of.

`read_source(Source(repo="mine", command="python3 run.py")).files` are its files without history,
builds, caches and notebooks, which may hold copies of what is taken out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from puna.core.errors import UserError, nearest
from puna.envs.experiment.masking import Function, decoded, functions

PAPERS = Path(__file__).parent.parent.parent / "papers"
MOST_FILES, LARGEST = 3_000, 64 << 20
DROPPED_FOLDERS = (
    *(".git", ".hg", ".svn", "__pycache__", "build", "dist", "node_modules", "site-packages"),
    *(".venv", "venv", ".tox", ".nox", ".eggs", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
    *(".ipynb_checkpoints", "htmlcov"),
)
DROPPED_ENDINGS = (
    *(".pyc", ".pyo", ".ipynb", ".whl", ".egg", ".zip", ".gz", ".bz2", ".xz", ".tar", ".tgz"),
    *(".orig", ".rej", ".bak", ".patch", ".diff", ".swp", "~", ".egg-info", ".so", ".pyd"),
)
TEXTS = (".md", ".rst", ".txt", ".tex")
# Of a paper: settings with which a run takes seconds, a line that leaves out what it times, and
# numbers that are rounding alone.
SMALL: Mapping[str, tuple[Mapping[str, Any], str, str]] = {
    "use": (
        {"users": 30, "train_users": 30, "periods": 3, "period": 40, "steps": 12, "batch": 8,
         "length": 32, "gap": 10, "width": 16, "layers": 1, "heads": 2},
        "experiment.costs = lambda *given: {}",
        "gap_",
    ),
    "uniprompt": (
        {"nodes": 60, "classes": 3, "shots": (1,), "splits": 1, "encoders": ("dgi",), "hidden": 16,
         "epochs": 5, "steps": 6, "words": 60},
        "",
        "",
    ),
    "user_model": (
        {"users": 100, "length": 8, "width": 8, "layers": 1, "heads": 2, "steps": 5, "batch": 8},
        "",
        "",
    ),
}  # fmt: skip
_RUNNER = '''"""Measure the paper in a small form: python3 run.py SEED prints JSON."""

import json
import re
import sys

import {name}.experiment as experiment

{line}
config = experiment.Config(**{settings!r})
found = experiment.measure(config, int(sys.argv[1]))
print(json.dumps({{k: v for k, v in found.items() if not re.match({noise!r}, k)}}))
'''


@dataclass(frozen=True)
class Source:
    """A repository (or a paper), the command that prints its numbers, and a second, hidden one.

    `results`: a JSON file that the command writes; none: the last line that it prints is the JSON.
    `contents`: a hash of all that is kept of the folder, filled in by `read_source`.
    """

    repo: str = ""
    paper: str = ""
    command: str = ""
    second: str = ""
    results: str = ""
    contents: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def commands(self) -> list[str]:
        """What is run to judge, the one that is shown first."""
        return [c for c in (self.command, self.second) if c]

    @cached_property
    def functions(self) -> dict[str, Function]:
        """Every function, as `path:name`; files that are no Python have none."""
        found = {}
        for path, text in self.texts.items():
            for name, function in _functions(text).items():
                found[f"{path}:{name}"] = function
        return found

    @cached_property
    def texts(self) -> dict[str, str]:
        """The Python files as text; those that cannot be read are left out."""
        return dict(_python(self.files))

    def to_json(self) -> dict[str, str]:
        """What a file of tasks keeps: all but the files."""
        return {k: v for k, v in asdict(replace(self, files={})).items() if k != "files"}


def _python(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    for path, data in files.items():
        if path.endswith(".py"):
            try:
                yield path, decoded(data)[0]
            except (SyntaxError, UnicodeDecodeError, LookupError):
                continue


def _functions(text: str) -> dict[str, Function]:
    try:
        return functions(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def read_source(source: Source, base: Path = Path()) -> Source:
    """`source` with its files; a relative folder is sought in `base`.

    Raises UserError where there is no such folder, paper or command, it is too large, or its
    contents are not those that the source names.
    """
    if bool(source.repo) == bool(source.paper):
        fix = "give --repo DIR --command '...', or --paper NAME"
        raise UserError("name either a repository or a paper", fix)
    made = _of_paper(source) if source.paper else _of_folder(source, base)
    if not made.command.strip():
        raise UserError(f"{made.repo}: no command", "give --command 'python3 run.py'")
    state = hashlib.sha256()
    for path, data in made.files.items():
        state.update(f"{len(path)} {path} {len(data)} ".encode() + data)
    made = replace(made, contents=state.hexdigest()[:16])
    if source.contents not in ("", made.contents):
        what = f"{source.repo or source.paper} has other contents than the tasks were made of"
        raise UserError(what, "give the folder as it was, or propose anew")
    return made


def _of_folder(source: Source, base: Path) -> Source:
    folder = base / Path(source.repo).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", "name a folder that holds a repository")
    return replace(source, files=_read(folder))


def _of_paper(source: Source) -> Source:
    """The paper's folder as a package of its name, and a script that measures it."""
    folder = Path(source.paper).expanduser() if "/" in source.paper else PAPERS / source.paper
    if not (folder / "experiment.py").is_file():
        known = [p.parent.name for p in PAPERS.glob("*/experiment.py")]
        raise UserError(f"no paper '{source.paper}'", nearest(source.paper, known))
    name = folder.resolve().name
    if not name.isidentifier():
        raise UserError(f"{folder}: the name is no package's", "use letters and _")
    settings, line, noise = SMALL.get(name, ({"quick": True}, "", ""))
    runner = _RUNNER.format(name=name, line=line, settings=settings, noise=noise or r"(?!)")
    files = {f"{name}/{path}": data for path, data in _read(folder).items()}
    return replace(
        source,
        files={**files, "run.py": runner.encode()},
        command=source.command or "python3 run.py 0",
        second=source.second or ("" if source.command else "python3 run.py 1"),
    )


def _read(folder: Path) -> dict[str, bytes]:
    """The plain files of a folder by path, in order, without what is dropped."""
    files: dict[str, bytes] = {}
    size = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not _dropped(f, folder=True))
        for name in sorted(names):
            path = Path(place) / name
            inside = path.relative_to(folder).as_posix()
            if _dropped(name) or path.is_symlink() or not path.is_file() or not _plain(inside):
                continue
            size += path.stat().st_size
            if len(files) >= MOST_FILES or size > LARGEST:
                what = f"{folder} holds more than {MOST_FILES:,} files or {LARGEST >> 20} MB"
                raise UserError(what, "name a smaller folder of it")
            try:
                files[inside] = path.read_bytes()
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not any(path.endswith(".py") for path in files):
        raise UserError(f"{folder} holds no .py file", "name a repository of Python")
    return files


def _dropped(name: str, folder: bool = False) -> bool:
    return name.endswith(DROPPED_ENDINGS) or (folder and name in DROPPED_FOLDERS)


def _plain(path: str) -> bool:
    return bool(re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,400}", path))
