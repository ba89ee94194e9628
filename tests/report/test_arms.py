"""Soups beside each other: the figures of the table by hand, and nothing where nothing compares."""

import json

import pytest

from puna.report.arms import _bound, arms, over_tasks
from puna.report.interval import Interval
from puna.report.page import render
from puna.report.read import open_run

MEMBERS = ("a", "b", "c", "d")
SKILLS = {"best": 0.5, "uniform": 0.3, "experts": 0.6, "soce": 0.75, "random": 0.4, "union": 0.9}
TEST = {"a": [0.9, 0.1], "b": [0.2, 0.6], "c": [0.3, 0.3], "d": [1.0, 0.0]}
DEV = [[0.8, 0.2], [0.1, 0.7], [0.3, 0.3], [0.7, 0.1]]  # d looks worse in x than it is


def record(method, seed, categories, optimism=0.05):
    """What a soup stage leaves, as far as the table reads it."""
    members = [
        {"stage": f"{m}@seed={seed}", "score": {"categories": dict(zip("xy", v, strict=True))}}
        for m, v in TEST.items()
    ]
    found = {"method": method, "members": members, "kept": True}
    if method == "uniform":
        return found
    search = {"optimism": optimism, "correlations": {"categories": ["x", "y"]}}
    search["scores"] = {"models": [m["stage"] for m in members], "values": DEV}
    return found | {"search": search, "soup": {"categories": categories}}


@pytest.fixture
def study(writer):
    run = writer(title="Soups")
    for seed in range(3):
        ids = [f"{m}@seed={seed}" for m in MEMBERS]
        for method in ("best", "uniform", "experts", "soce", "random"):
            better = {"x": 0.7 if method == "soce" else 0.5, "y": 0.4}
            found = record(method, seed, better, 0.01 * (seed + 1))
            run.done(f"{method}@seed={seed}", "soup", ids, found)
        run.done(f"union@seed={seed}", "sft", ["base"], {})
        skills = {f"{n}@seed={seed}": v + 0.02 * seed for n, v in SKILLS.items()}
        run.eval(f"eval@seed={seed}", skills)
    return run.finish()


def told(study, one, other):
    """The differences of the seeds as the eval stages left them."""
    out = []
    for seed in range(3):
        stage = json.loads((study / f"eval@seed={seed}" / "stage.json").read_text())
        for d in stage["result"]["differences"]:
            pair = (f"{one}@seed={seed}", f"{other}@seed={seed}")
            if (d["to"], d["from"]) == pair:
                out.append(d["mean"])
            elif (d["from"], d["to"]) == pair:
                out.append(-d["mean"])
    return out


def test_each_arm_against_the_best_member_over_seeds(study):
    page = arms(open_run(study))
    lines = {row.split("</th>")[0].rpartition(">")[2]: row for row in page.split("<tr>")}
    gains = told(study, "soce", "best")
    assert len(gains) == 3
    assert min(gains) > 0.1
    line = lines["soce"]
    assert f"{sum(gains) / 3:+.3f}" in line
    assert ", ".join(f"{g:+.3f}" for g in gains) in line
    assert "<td>3 of 3</td><td>3 ahead, 0 behind of 6</td><td>+0.020</td>" in line
    assert "over tasks" in line
    assert "<td>0 of 3</td><td>–</td><td>–</td>" in lines["uniform"]
    assert "<td>3 of 3</td><td>–</td><td>–</td>" in lines["union"]
    losses = told(study, "uniform", "best")
    assert f"{sum(losses) / 3:+.3f}" in lines["uniform"]
    assert page in render(open_run(study))


def test_the_steps_and_the_share_of_selection(study):
    page = arms(open_run(study))
    whole, part = (sum(told(study, m, "uniform")) / 3 for m in ("soce", "experts"))
    assert 0.3 < part / whole < 0.95
    assert f"selection gives {100 * part / whole:.0f} %" in page
    for one, other in (("soce", "experts"), ("soce", "random")):
        mean = sum(told(study, one, other)) / 3
        assert f"{one} minus {other}" in page
        assert f"{mean:+.3f}" in page


def test_the_bound_takes_each_categorys_best_of_the_dev_half(study):
    """x goes to a, which has .9 in test (d's 1.0 was not seen), y to b, .6; the soup .7 and .4."""
    bound = _bound(open_run(study).stage("soce@seed=1"))
    assert bound == pytest.approx(((0.9 + 0.6) / 2, (0.7 + 0.4) / 2))
    assert "has 0.750 over the categories of the test half, where SoCE has 0.550" in arms(
        open_run(study)
    )


def test_no_share_where_nothing_is_gained(writer):
    run = writer()
    for seed in range(3):
        ids = [f"{m}@seed={seed}" for m in MEMBERS]
        for method in ("best", "uniform", "experts", "soce"):
            run.done(f"{method}@seed={seed}", "soup", ids, record(method, seed, {"x": 0.5}))
        levels = {"best": 0.5, "uniform": 0.6, "experts": 0.5, "soce": 0.5}
        run.eval(f"eval@seed={seed}", {f"{n}@seed={seed}": v for n, v in levels.items()})
    page = arms(open_run(run.finish()))
    assert "experts minus uniform" in page
    assert "selection gives" not in page


def test_members_from_elsewhere_are_no_step_of_soce(writer):
    """A soup of other members is an arm, and is not taken for the experts of these ones."""
    run = writer()
    run.done("best", "soup", MEMBERS, record("best", 0, {"x": 0.5}))
    run.done("uniform", "soup", MEMBERS, record("uniform", 0, {}))
    run.done("strangers", "soup", ("a", "z"), record("experts", 0, {"x": 0.1}))
    run.eval("eval", {"best": 0.5, "uniform": 0.4, "strangers": 0.1})
    page = arms(open_run(run.finish()))
    assert '<th scope="row">strangers</th>' in page
    assert "minus uniform" not in page


def test_over_tasks_by_hand():
    """Halves .03 and .04 of two independent means: .05 / 2 of their average."""
    found = over_tasks([Interval(0.5, 0.47, 0.54), Interval(0.7, 0.66, 0.73)])
    assert found.mean == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.575, 0.625))
    assert over_tasks([Interval(0.5)]) is None
    assert over_tasks([]) is None


def test_nothing_without_a_best_member_and_no_fault_in_broken_records(writer, quickstart):
    assert arms(open_run(quickstart)) == ""
    run = writer()
    broken = {"method": "soce", "search": {"scores": {"models": ["a"], "values": [["x"], 3]}}}
    run.done("soce", "soup", ["a"], broken | {"soup": {"categories": 5}, "members": [None]})
    run.done("best", "soup", ["a"], {"method": "best", "soup": None})
    run.eval("eval", {"best": 0.5, "soce": 0.5})
    assert "soce" in arms(open_run(run.finish()))
