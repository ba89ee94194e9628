"""The page of a comparison: what it says, that it stands alone, that it claims nothing by noise."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_page import HOSTILE, Outline

from puna.core.errors import UserError
from puna.core.outcome import Infra, Scored
from puna.core.stats import holm
from puna.evals.compare import Comparison, Pair, compare_results
from puna.evals.results import Result
from puna.report.comparison import headline, render, write_comparison
from puna.report.paired import CELLS, _gathered

SIDES = ("runs/x/sft", "runs/x/rl")


def suite(skills, n=60, k=1, name="arithmetic", infra=0, partial=False):
    """Two results on `n` tasks, of which each side solves its share; harder ones later."""
    random = np.random.default_rng(0)
    sides = []
    for side, skill in zip(SIDES, skills, strict=True):
        rows = {}
        for i in range(n):
            right = [0.7 * i / n + 0.3 * random.random() < skill for _ in range(k)]
            values = [float(random.random()) if partial else float(r) for r in right]
            rows[f"{name}/test/{i}"] = [Scored(v, r) for v, r in zip(values, right, strict=True)]
            if i < infra and side == SIDES[0]:
                rows[f"{name}/test/{i}"] = [Infra("down")] * k
        env = {"name": name, "version": "1.0", "hash": name.encode("utf-8", "replace").hex()}
        sides.append(Result(side, env, {"k": k}, {"agent": rows}))
    return compare_results(*sides)


def comparison(*suites, left_out=()):
    adjusted = holm([s.difference.p_value for s in suites])
    suites = (replace(s, p_holm=p) for s, p in zip(suites, adjusted, strict=True))
    return Comparison(SIDES, SIDES, tuple(suites), left_out)


@pytest.fixture
def several():
    return comparison(
        suite((0.4, 0.7)),
        suite((0.5, 0.5), k=4, name="shop", infra=3),
        suite((0.8, 0.4), name="repair"),
        left_out=("browser (c0ffee12): only A was evaluated on it",),
    )


def test_the_sections_and_what_they_say(several):
    page = render(several)
    outline = Outline(page)
    assert outline.headings == [
        "Differences",
        "arithmetic 1.0",
        "shop 1.0",
        "repair 1.0",
        "What was not scored",
        "Left out",
        "How to reproduce",
    ]
    assert "Of 3 environments B is better on 1 and worse on 1; on 1 no" in outline.text
    for verdict, tone in (("better", "good"), ("worse", "bad"), ("no difference shown", "flat")):
        assert page.count(f'<span class="verdict {tone}">{verdict}</span>') == 1
    assert "puna compare runs/x/sft runs/x/rl" in outline.text
    assert "only A was evaluated on it" in outline.text
    for found in several.suites:
        assert f"{found.difference.mean:+.3f}" in outline.text
        assert f"[{found.difference.low:+.3f}, {found.difference.high:+.3f}]" in outline.text
        assert f"{found.difference.detectable:.3f}" in outline.text
        assert all(f"solved by {who}{n}" in outline.text for who, n in found.solved.items())
    shop = several.suites[1]
    for name, score in (("pass@4", shop.a.pass_at[4]), ("pass^4", shop.b.pass_hat[4])):
        assert f">{name}</th>" in page
        assert f"[{score.low:.3f}, {score.high:.3f}]" in page
    row = f"A on shop 1.0</th><td>228</td><td>0</td><td>12</td><td>{shop.a.counted_zero:.3f}"
    assert row in page


def test_the_page_stands_alone_and_repeats(several, tmp_path):
    path = write_comparison(several, tmp_path / "page.html")
    page = path.read_text()
    outline = Outline(page)
    assert all(url.startswith("#") for url in outline.urls)
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert outline.tags.count("svg") == 4
    assert "#0a0b" not in page  # every colour is the page's
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert render(several) == page
    with pytest.raises(UserError):
        write_comparison(several, tmp_path / "page.html" / "below.html")


def test_one_suite_is_told_in_a_sentence():
    gain, none = comparison(suite((0.4, 0.7))), comparison(suite((0.5, 0.5)))
    d = gain.suites[0].difference
    span = f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] over 60 paired tasks"
    assert headline(gain) == f"B is better than A on arithmetic 1.0: {span}."
    assert headline(none).startswith("No difference is shown on arithmetic 1.0: B minus A is ")


def test_no_winner_is_named_where_holm_says_noise():
    found = suite((0.4, 0.7))
    noise = Comparison(SIDES, SIDES, (replace(found, p_holm=0.06),))
    assert headline(noise).startswith("No difference is shown")
    page = render(noise)
    assert 'class="verdict flat"' in page
    assert "verdict good" not in page
    assert "verdict good" in render(Comparison(SIDES, SIDES, (found,)))


def test_rows_are_the_largest_differences_and_no_more():
    found = comparison(suite((0.3, 0.7)))
    wins = found.suites[0].wins
    assert len(wins) > 12
    page = render(found, 12)
    outline = Outline(page)
    assert f"B ahead on {len(wins)} tasks, the 12 with the largest differences" in outline.text
    shown = [p.task for p in wins if f">{p.task}</th>" in page]
    assert shown == [p.task for p in wins[:12]]


def test_hostile_names_stay_text():
    found = comparison(suite((0.4, 0.6), name=HOSTILE + "$x_1$", n=8), left_out=(HOSTILE,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outline = Outline(render(Comparison((HOSTILE, "b"), (HOSTILE, "b"), found.suites)))
    assert not {"script", "b"} & set(outline.tags)
    assert outline.text.count('<script>alert("x")</script>') > 6
    assert "$x_1$" in outline.text
    assert not re.search("[\x00\x1b\u202e]", outline.text)


def test_many_scores_are_gathered_and_none_is_lost():
    random = np.random.default_rng(0)
    values = random.random((5_000, 2)).tolist()
    pairs = [Pair(str(i), a, b, "both") for i, (a, b) in enumerate(values)]
    spots = _gathered(pairs)
    assert len(spots) <= CELLS * CELLS
    assert sum(spots.values()) == 5_000
    few = [Pair("x", 0.0, 1.0, "B alone")] * 3 + [Pair("y", 1.0, 1.0, "both")]
    assert _gathered(few) == {(0.0, 1.0): 3, (1.0, 1.0): 1}
    whole = comparison(suite((0.5, 0.5), n=5_000, partial=True))
    assert len(render(whole)) < 400_000


def test_tasks_beyond_zero_and_one_and_a_single_task_have_a_page(tmp_path: Path):
    env = {"name": "open", "version": "1.0", "hash": "ab"}
    sides = [
        Result(s, env, {"k": 1}, {"agent": {"t": [Scored(v, True)]}})
        for s, v in zip(SIDES, (-3.0, 40.0), strict=True)
    ]
    page = render(comparison(compare_results(*sides)))
    assert "No difference is shown on open 1.0" in Outline(page).text
