"""The runs of a folder, and the journals of episodes in them, by name: `Shelf(Path("runs"))`.

Names are looked up in what the folder holds and never joined to a path as they come, so nothing
outside of it can be named.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from fastapi import HTTPException

from puna.core.errors import UserError
from puna.report.read import Run, Stage, open_run
from puna.serve.journals import Index

LOST = "nothing of that name"


class Shelf:
    """What is in `folder`. Every method raises HTTPException 404 for a name that is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.indices: dict[Path, Index] = {}
        self.lock = threading.Lock()  # requests come from several threads

    def names(self) -> list[str]:
        """Directories that hold a run, the one written last first."""
        try:
            found = [p for p in self.folder.iterdir() if os.path.isfile(p / "run.json")]
        except OSError:
            return []
        return [p.name for p in sorted(found, key=written, reverse=True)]

    def run(self, name: str) -> Run:
        """The run; HTTPException 422 where it cannot be read."""
        if name not in self.names():
            raise HTTPException(404, LOST)
        try:
            return open_run(self.folder / name)
        except UserError as error:
            raise HTTPException(422, str(error)) from error

    def stage(self, name: str, stage: str) -> Stage:
        """A stage of a run."""
        found = self.run(name).stage(stage)
        if found is None:
            raise HTTPException(404, LOST)
        return found

    def files(self, run: Run) -> dict[str, tuple[Stage, Path]]:
        """Episode journals of a run by "stage/file"."""
        stages = {s.id: s for s in run.stages}
        here = [d for d in run.dir.iterdir() if d.name in stages]
        found = sorted(p for d in here for p in d.glob("episodes*.jsonl"))
        return {f"{p.parent.name}/{p.name}": (stages[p.parent.name], p) for p in found}

    def journal(self, name: str, file: str) -> tuple[Run, Stage, Index]:
        """A run, the stage that wrote the journal, and its index as far as it has got."""
        run = self.run(name)
        stage, path = self.files(run).get(file, (None, None))
        if stage is None or path is None:
            raise HTTPException(404, LOST)
        with self.lock:
            return run, stage, self.indices.setdefault(path, Index(path))


def written(run: Path) -> float:
    """When something was last written to a run, in seconds since 1970."""
    try:
        return max(p.stat().st_mtime for p in (run, run / "journal.jsonl") if p.exists())
    except (OSError, ValueError):
        return 0.0
