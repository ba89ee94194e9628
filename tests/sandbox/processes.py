"""Waiting for processes of jobs, found on the host by a word on their command line."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def until(wanted: Callable[[], object]) -> None:
    """Wait a minute at most."""
    end = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def marked(mark: str) -> list[str]:
    """Process ids of those that have `mark` on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_text(errors="replace"):
                found.append(path.parent.name)
        except OSError:
            pass
    return found
