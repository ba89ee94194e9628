import json

import pytest

from puna.report.interval import Interval, over_seeds, verdict_of
from puna.report.read import open_run
from puna.report.summary import (
    compared_over_seeds,
    headline,
    rows_of,
    summary_table,
)


def by_stage(run_dir):
    return {r.stage: r for r in summary_table(run_dir)}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (-0.01, 0.2, "no gain shown"),
        (-0.2, 0.01, "no gain shown"),
        (0.0, 0.2, "no gain shown"),
        (-0.2, 0.0, "no gain shown"),
        (None, None, "not compared"),
    ],
)
def test_a_gain_needs_an_interval_beyond_zero(low, high, verdict):
    assert verdict_of(Interval(0.0, low, high)) == verdict


def test_over_seeds_by_hand():
    # mean 0.3, standard deviation 0.1, t_0.975(2) = 4.30265, half = 4.30265 * 0.1 / sqrt(3)
    found = over_seeds([0.2, 0.3, 0.4])
    assert found.mean == pytest.approx(0.3)
    assert found.high - found.mean == pytest.approx(0.248413, abs=1e-5)
    assert over_seeds([0.2]) == Interval(0.2)
    assert over_seeds([]) is None


def test_rows_of_a_finished_run(quickstart):
    rows = by_stage(quickstart)
    assert list(rows) == ["pretrain", "sft", "rl", "eval"]
    scores = json.loads((quickstart / "eval" / "stage.json").read_text())["result"]
    sft, rl = (s["score"]["value"] for s in scores["scores"][1:])
    row = rows["rl"]
    assert (row.steps, row.tokens, row.cpu_seconds) == (120, 108_000, 61.5)
    assert (row.before.mean, row.after.mean) == (sft["mean"], rl["mean"])
    assert (row.after.low, row.after.high) == (rl["low"], rl["high"])
    assert row.difference.mean == scores["differences"][2]["mean"]
    assert (row.n, row.verdict) == (200, "better")
    assert rows["pretrain"].after == Interval(2.214, 2.151, 2.277)
    assert rows["pretrain"].verdict == "not below xz -9 after the training text"


def test_no_gain_and_worse_are_said(writer):
    run = writer()
    run.pretrain()
    run.sft()
    run.rl()
    run.sft("more", "rl")
    run.eval("eval", {"sft": 0.5, "rl": 0.5, "more": 0.2})
    rows = by_stage(run.finish())
    assert rows["rl"].verdict == "no gain shown"
    assert rows["more"].verdict == "worse"
    assert rows["sft"].verdict == "not compared"
    whole = open_run(run.dir)
    assert "rl showed no gain on arithmetic 1.0" in headline(whole, rows_of(whole))


@pytest.mark.parametrize("order", [("sft", "more", "rl"), ("rl", "more", "sft")])
def test_a_stage_is_compared_with_its_parent_wherever_eval_lists_it(writer, order):
    run = writer()
    run.pretrain()
    run.sft()
    run.sft("more", "sft")
    run.rl()
    skills = {"sft": 0.4, "more": 0.6, "rl": 0.7}
    run.eval("eval", {name: skills[name] for name in order})
    row = by_stage(run.finish())["rl"]
    scores = json.loads((run.dir / "eval" / "stage.json").read_text())["result"]["scores"]
    means = {s["stage"]: s["score"]["value"]["mean"] for s in scores}
    assert row.difference.mean == pytest.approx(means["rl"] - means["sft"])
    assert row.difference.mean - (means["rl"] - means["more"]) > 0.1
    assert row.difference.low < row.difference.mean < row.difference.high
    assert row.verdict == "better"


def test_seeds_stand_beneath_their_mean(seeds):
    rows = summary_table(seeds)
    names = [r.stage for r in rows if r.kind == "rl"]
    assert names == ["rl", "rl@seed=0", "rl@seed=1", "rl@seed=2"]
    mean, *each = (r for r in rows if r.kind == "rl")
    assert mean.difference == over_seeds([r.difference.mean for r in each])
    assert mean.seeds == tuple(names[1:])
    assert {r.of_group for r in each} == {"rl"}
    whole = open_run(seeds)
    assert "over 3 seeds" in headline(whole, rows_of(whole))
    found = compared_over_seeds(whole.compared)
    key = ("eval", "arithmetic 1.0", "sft", "rl")
    assert found == {key: [r.difference.mean for r in each]}


def test_without_an_eval_stage_nothing_is_claimed(writer):
    run = writer()
    run.sft("a", "x")
    run.sft("b", "x", held_out=False)
    run.rl("c", "x")
    rows = by_stage(run.finish())
    assert rows["a"].metric == "best held-out score while training"
    assert rows["c"].metric == "held-out score while training"
    assert rows["a"].after == Interval(0.62)
    assert rows["b"].metric == "loss"
    assert {r.verdict for r in rows.values()} == {"not compared"}
    assert all(r.difference is None for r in rows.values())
