"""Agents of other libraries, as PyPI has them, between the shop's tools and a captured policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from outside_play import PROGRAMS, Play, answers, player, sampler_of

from puna.core.outcome import Scored

PEER = Path(__file__).parents[2] / ".peers" / "agents" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PEER.exists(), reason="`make peers` installs these libraries")


@pytest.fixture
def play(clerk: Path) -> Iterator[Play]:
    with player(sampler_of(clerk)) as played:
        yield played


def test_the_agents_sdk_keeps_its_history_and_calls_tools(play: Play) -> None:
    (alone,), (through,) = play(), play(f"{PEER} {PROGRAMS / 'openai_agents.py'}")
    verdict = through.outcomes["agent"]
    assert isinstance(verdict, Scored)
    assert verdict.value == 1.0
    (a,), (b,) = alone.branches["agent"], through.branches["agent"]
    assert (a.ids, a.mask) == (b.ids, b.mask)
    assert answers(b) > 2


def test_langchain_sums_its_history_up_and_branches(play: Play) -> None:
    (t,) = play(f"{PEER} {PROGRAMS / 'langchain_agent.py'}")
    assert isinstance(t.outcomes["agent"], Scored)
    first, summed, *rest = t.branches["agent"]
    assert answers(first) == 2  # messages: asked, said, answered, and then the history is too long
    assert answers(summed) == 1
    assert rest
    assert sum(sum(b.mask) for b in t.branches["agent"]) == t.usage["sampled_tokens"]
