"""Progress for people: a live line on a terminal, plain lines elsewhere, nothing where asked.

`Progress("auto").step("sft", 10, 100, {"loss": 2.31}, tokens=4096)`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from puna.core.printable import printable


class Progress:
    """Shows stage, step, figures, tokens per second and the time left."""

    def __init__(self, mode: str = "quiet", every_s: float = 10.0) -> None:
        self.mode, self.every_s = mode, every_s
        if mode == "auto":
            self.mode = "live" if sys.stderr.isatty() else "plain"
        self._stage, self._begun, self._first, self._tokens = "", 0.0, 0, 0
        self._printed = 0.0
        self._status: Any = None

    def step(
        self, stage: str, done: int, total: int, figures: Mapping[str, float], tokens: int = 0
    ) -> None:
        """`done` of `total` steps of `stage` are finished; the last took `tokens`."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._first, self._tokens = stage, now, done, 0
            self._printed = 0.0
            self._show(stage, done, total, figures, 0.0, None)
            return
        self._tokens += tokens
        spent = max(now - self._begun, 1e-9)
        left = spent / max(1, done - self._first) * (total - done)
        if self.mode == "live" or now - self._printed >= self.every_s or done >= total:
            self._show(stage, done, total, figures, self._tokens / spent, left)

    def _show(
        self,
        stage: str,
        done: int,
        total: int,
        figures: Mapping[str, float],
        rate: float,
        left: float | None,
    ) -> None:
        if self.mode == "quiet":
            return
        self._printed = time.monotonic()
        parts = [f"{stage} {done}/{total}"] + [f"{k} {v:.4g}" for k, v in figures.items()]
        if rate:
            parts.append(f"{rate:,.0f} tok/s")
        if left is not None:
            parts.append(f"{_clock(left)} left")
        self._line("  ".join(parts))

    def note(self, text: str) -> None:
        """One line that stays."""
        if self.mode == "quiet":
            return
        self._stop()
        print(printable(text), file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        text = printable(text)
        if self.mode == "plain":
            print(text, file=sys.stderr, flush=True)
            return
        from rich.text import Text

        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(Text(text))
            self._status.start()
        self._status.update(Text(text))

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
