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


def contexts(*changes, n=12):
    rows = [
        {
            "name": f"context {context}",
            "before": {"mean": 2.0, "low": 1.9, "high": 2.1},
            "after": {"mean": 2.0 + change, "low": 1.9 + change, "high": 2.1 + change},
            "difference": {"mean": change, "low": low, "high": high, "n": n},
        }
        for context, change, low, high in changes
    ]
    bits = {"model": 1.9, "low": 1.8, "high": 2.0, "held_out_bytes": 9}
    bits |= {"contexts": rows[:2], "longer": rows[2:]}
    return {"steps": 9, "tokens": 90, "bits_per_byte": bits}


def test_midtraining_shows_both_contexts_before_and_after(writer):
    run = writer()
    run.pretrain()
    found = contexts(
        (128, 0.05, 0.01, 0.09), (512, -0.1, -0.14, -0.06), ("512 instead of 128", -0.1, -0.3, 0.1)
    )
    run.done("mid", "midtrain", ["pretrain"], found)
    rows = [r for r in summary_table(run.finish()) if r.stage == "mid"]
    assert [(r.metric, r.verdict) for r in rows] == [
        ("bits per byte, context 128", "worse"),
        ("bits per byte, context 512", "better"),  # less is better
        ("bits per byte, context 512 instead of 128", "no gain shown"),
    ]
    assert rows[1].before == Interval(2.0, 1.9, 2.1)
    assert rows[1].after.mean == pytest.approx(1.9)
    assert (rows[1].difference, rows[1].n, rows[1].unit) == (
        Interval(-0.1, -0.14, -0.06),
        12,
        "files",
    )
    whole = open_run(run.dir)
    for row, said in (
        (rows[0], "mid raised bits per byte, context 128 from 2.000 to 2.050: +0.050"),
        (rows[1], "mid lowered bits per byte, context 512 from 2.000 to 1.900: -0.100"),
        (rows[2], "mid showed no gain on bits per byte, context 512 instead of 128"),
    ):
        assert headline(whole, [row]).startswith(said)
        assert "over 12 paired files" in headline(whole, [row])


def test_a_single_file_claims_nothing(writer):
    run = writer()
    run.done("mid", "midtrain", [], contexts((128, -0.1, None, None), n=1))
    (row,) = summary_table(run.finish())
    assert (row.difference, row.verdict) == (None, "not compared")
    assert row.after.mean == pytest.approx(1.9)


def test_over_seeds_less_bits_are_better(writer):
    run = writer()
    for seed in range(3):
        found = contexts((512, -0.1 - 0.01 * seed, -0.2, 0.1))
        run.done(f"mid@seed={seed}", "midtrain", [], found)
    mean, *each = summary_table(run.finish())
    assert mean.difference.mean == pytest.approx(-0.11)
    assert mean.verdict == "better"
    assert {r.verdict for r in each} == {"no gain shown"}


def souped(kept, mean, low, high):
    members = [
        {"stage": n, "weight": 0.5, "score": {"mean": m, "low": m - 0.1, "high": m + 0.1}}
        for n, m in (("sft", 0.5), ("rl", 0.7))
    ]
    return {
        "members": members,
        "kept": kept,
        "measured": True,
        "best_member": "rl",
        "env": {"name": "arithmetic", "version": "1.0"},
        "soup": {"mean": 0.7 + mean, "low": 0.6, "high": 0.8},
        "difference": {"mean": mean, "low": low, "high": high, "n": 200},
    }


@pytest.mark.parametrize(
    ("found", "after", "verdict"),
    [
        (souped(True, 0.1, 0.02, 0.18), 0.8, "better"),
        (souped(True, -0.05, -0.12, 0.02), 0.65, "no gain shown"),
        (souped(False, -0.4, -0.5, -0.3), 0.7, "reverted to rl: soup -0.400 [-0.500, -0.300]"),
    ],
)
def test_a_soup_is_compared_with_its_best_member(writer, found, after, verdict):
    run = writer()
    run.sft()
    run.rl()
    run.done("soup", "soup", ["sft", "rl"], found)
    run.eval("eval", {"sft": 0.5, "rl": 0.7, "soup": 0.72})
    run.finish()
    chose, scored = (r for r in summary_table(run.dir) if r.stage == "soup")
    assert chose.metric == "arithmetic 1.0, tasks that chose"
    assert chose.before == Interval(0.7, pytest.approx(0.6), pytest.approx(0.8))
    assert chose.after.mean == pytest.approx(after)
    assert chose.verdict == verdict
    scores = json.loads((run.dir / "eval" / "stage.json").read_text())["result"]["scores"]
    means = {s["stage"]: s["score"]["value"]["mean"] for s in scores}
    assert scored.before.mean == means["rl"]  # not the first parent
    assert scored.difference.mean == pytest.approx(means["soup"] - means["rl"])


def test_a_soup_that_was_not_measured_claims_nothing(writer):
    run = writer()
    members = [{"stage": "a", "weight": 1.0}]
    run.done("soup", "soup", ["a"], {"members": members, "kept": True, "measured": False})
    (row,) = summary_table(run.finish())
    assert (row.metric, row.difference) == ("", None)
