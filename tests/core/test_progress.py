"""Progress: figures right, plain lines off a terminal, nothing where asked."""

from __future__ import annotations

import pytest

from puna.core import progress
from puna.core.progress import Progress


class Clock:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_line_holds_step_figures_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Progress("plain", every_s=10)
    show.step("sft", 10, 100, {"loss": 2.3456}, tokens=0)
    clock.now += 20
    show.step("sft", 20, 100, {"loss": 2.0}, tokens=40_000)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "sft 10/100  loss 2.346"
    assert second == "sft 20/100  loss 2  2,000 tok/s  2:40 left"  # 10 steps took 20 s, 80 are left


def test_plain_lines_come_at_most_every_so_often_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Progress("plain", every_s=10)
    for step in range(1, 31):
        show.step("rl", step, 30, {})
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert [x.split()[1] for x in lines] == ["1/30", "11/30", "21/30", "30/30"]


def test_a_new_stage_starts_its_clock_anew(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Progress("plain", every_s=0)
    show.step("sft", 1, 2, {})
    clock.now += 3600
    show.step("rl", 1, 3, {})
    clock.now += 3661
    show.step("rl", 2, 3, {})
    assert capsys.readouterr().err.splitlines()[-1].endswith("1:01:01 left")


def test_quiet_is_silent_and_auto_is_plain_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiet = Progress()
    quiet.step("sft", 1, 1, {})
    quiet.note("x")
    assert capsys.readouterr() == ("", "")
    plain = Progress("auto")
    assert plain.mode == "plain"
    plain.note("kept")
    plain.close()
    assert capsys.readouterr() == ("", "kept\n")
