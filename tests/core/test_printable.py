"""What may steer a terminal does not reach it."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from puna.core.printable import printable
from puna.core.progress import Progress


def test_every_control_override_and_surrogate_is_replaced() -> None:
    kept = [c for c in map(chr, range(sys.maxunicode + 1)) if printable(c) == c]
    assert {c for c in kept if unicodedata.category(c) in ("Cc", "Cs")} == {"\n", "\t"}
    assert not {c for c in kept if unicodedata.bidirectional(c) in ("LRO", "RLO", "RLI", "PDF")}
    assert all(c in kept for c in "aé漢🦙[]\u0301\u200d ")
    assert printable("a\x1b[2J\rb") == "a\ufffd[2J\ufffdb"


def test_notes_and_lines_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    show = Progress("plain")
    show.note("sft writes: \x1b]0;x\x07\ud800")
    show.step("s\x1b", 1, 2, {})
    assert capsys.readouterr().err == "sft writes: \ufffd]0;x\ufffd\ufffd\ns\ufffd 1/2\n"


def test_a_live_line_is_text_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show = Progress("live")
    show.step("[/bold]", 1, 2, {})  # as markup this raises
    show.close()
