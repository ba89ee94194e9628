"""Main effects over seeds by hand, claims judged on them, and what is left out."""

import json
from itertools import product

import pytest

from puna.report.effects import claims, effects, figures, main_effects, numbers, verdicts
from puna.report.page import write_report
from puna.report.read import open_run

CLAIM = {
    "id": "size", "statement": "Few is better.", "source": "by hand", "command": "puna run study",
    "metric": "final / skills (level 7) / size=few",
    "against": "final / skills (level 7) / size=all", "least": 3,
}  # fmt: skip
# What `few` adds to `all` in each seed: mean 0.1, standard deviation 0.02.
FEW = (0.08, 0.10, 0.12)


def score(stage, value, **more):
    env = {"name": "skills", "version": "1.0", "hash": "ab" * 32}
    mean = {"mean": value, "low": value, "high": value, "n_tasks": 9}
    of_k = {"value": mean, "success": mean, "k": 1, "pass_at": {}, "n_scored": 9}
    of_k |= more.pop("score", {})
    return {"stage": stage, "env": env, "role": "agent", "score": of_k, **more}


@pytest.fixture
def study(tmp_path):
    """Two axes, three seeds: `few` adds FEW, `pool` 0.2; with `sampled` four answers a task."""

    def write(claims=(CLAIM,), seeds=3, sampled=False, without=(), half=False):
        plans = []
        for seed, size, pick in product(range(seeds), ("all", "few"), ("none", "pool")):
            if half and (size == "few") != (pick == "pool"):
                continue
            labels = {"seed": seed, "size": size, "filter": pick}
            tail = f"@seed={seed},size={size},filter={pick}"
            value = 0.3 + seed / 100 + FEW[seed] * (size == "few") + 0.2 * (pick == "pool")
            more = {}
            if sampled:
                found = {"mean": value + 0.1, "low": 0.0, "high": 1.0}
                more = {"surprisal": value / 10, "score": {"k": 4, "pass_at": {"4": found}}}
            results = {
                "rl": {"useful_groups": value / 2},
                "final": {"scores": [score(f"rl{tail}", value, **more)], "differences": []},
            }
            for base, kind in (("rl", "rl"), ("final", "eval")):
                name = base + tail
                plan = {"id": name, "base": base, "kind": kind, "from": [], "seed": seed}
                plans.append(plan | {"labels": labels, "round": 1})
                if name in without:
                    continue
                config = {"envs": [{"id": "skills", "level": 7}]} if kind == "eval" else {}
                record = {"schema": 1, **plan, "config": config, "parents": {f"rl{tail}": "x"}}
                (tmp_path / name).mkdir()
                record |= {"result": results[base]}
                (tmp_path / name / "stage.json").write_text(json.dumps(record))
        run = {"schema": 1, "name": "study", "stages": plans, "claims": list(claims)}
        (tmp_path / "run.json").write_text(json.dumps(run))
        return open_run(tmp_path)

    return write


def test_main_effects_by_hand(study):
    found = {(e.stage, e.measure, e.axis, e.level): e for e in main_effects(figures(study()))}
    assert set(found) == {
        ("rl", "useful groups", "size", "few"),
        ("rl", "useful groups", "filter", "pool"),
        ("final", "skills (level 7)", "size", "few"),
        ("final", "skills (level 7)", "filter", "pool"),
    }
    size = found["final", "skills (level 7)", "size", "few"]
    assert size.first == "all"
    assert size.each == pytest.approx(FEW)
    # t_0.975(2) = 4.30265; half = 4.30265 * 0.02 / sqrt(3)
    assert size.difference.mean == pytest.approx(0.1)
    assert size.difference.high - size.difference.mean == pytest.approx(0.0496828, abs=1e-6)
    assert found["rl", "useful groups", "filter", "pool"].each == pytest.approx((0.1, 0.1, 0.1))


def test_numbers_are_means_over_all_variants_with_a_value(study):
    row = numbers(figures(study()))[1]
    assert row["final / skills (level 7) / size=all"] == pytest.approx(0.31 + 0.1)
    assert row["final / skills (level 7) / filter=pool"] == pytest.approx(0.31 + 0.2 + FEW[1] / 2)
    assert row["final / skills (level 7) / stage=rl"] == pytest.approx(0.31 + 0.1 + FEW[1] / 2)


def test_axes_that_change_together_are_not_told_apart(study):
    """Why a fraction must keep them apart: here both get the sum of both effects."""
    found = main_effects(figures(study(half=True)))
    means = {e.axis: e.difference.mean for e in found if e.stage == "final"}
    assert means == pytest.approx({"size": 0.3, "filter": 0.3})


def test_of_several_answers_pass_at_k_and_surprisal_are_measures(study):
    row = numbers(figures(study(sampled=True)))[0]
    assert row["final / skills (level 7), pass@4 / size=all"] == pytest.approx(0.3 + 0.1 + 0.1)
    assert row["final / skills (level 7), surprisal / size=all"] == pytest.approx(0.04)


def test_of_one_answer_they_are_not(study):
    assert not [name for name in numbers(figures(study()))[0] if "pass@" in name or "surp" in name]


def test_a_seed_with_a_variant_missing_is_left_out(study):
    run = study(without=("final@seed=1,size=few,filter=pool",))
    rows = numbers(figures(run))
    assert not [name for name in rows[1] if name.startswith("final")]
    assert [name for name in rows[1] if name.startswith("rl")]
    assert len([e for e in main_effects(figures(run)) if e.stage == "final"]) == 2
    (verdict,) = verdicts(run)
    assert verdict.verdict == "not shown"
    assert "2 seeds; a verdict takes 3" in verdict.measured()


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "shown"),
        ({"direction": "below"}, "not shown"),
        ({"margin": 0.06}, "not shown"),  # the interval begins at 0.0503
        ({"margin": 0.05}, "shown"),
        ({"least": 4}, "not shown"),
        ({"against": 0.3}, "shown"),
        ({"against": 0.5}, "not shown"),
        ({"metric": "final / skills (level 7) / size=none"}, "not shown"),
        ({"testable": False, "why": "no model of that size"}, "not testable here"),
    ],
)
def test_claims_are_shown_or_not(study, changes, verdict):
    (found,) = verdicts(study(claims=[CLAIM | changes]))
    assert found.verdict == verdict


def test_a_number_that_is_not_there_is_said(study):
    (found,) = verdicts(study(claims=[CLAIM | {"metric": "final / skills / size=few"}]))
    assert found.measured() == "not measured yet"


@pytest.mark.parametrize("broken", ["x", [3], [{"id": "a"}], {"a": 1}])
def test_a_record_with_broken_claims_still_has_a_report(study, broken, tmp_path):
    study(claims=())
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"claims": broken}))
    assert verdicts(open_run(tmp_path)) == []
    assert "Main effects" in write_report(tmp_path).read_text()


def test_the_page_has_the_table_and_the_verdicts(study, tmp_path):
    run = study(claims=[CLAIM, CLAIM | {"id": "<b>", "direction": "below"}])
    text = write_report(tmp_path).read_text()
    for wanted in ("Main effects", "size: few", "+0.100", "+0.080, +0.100, +0.120", "higher"):
        assert wanted in text
    assert ">shown</span>" in claims(run)
    assert ">not shown</span>" in claims(run)
    assert "&lt;b&gt;" in text
    assert text.index("Claims") < text.index("Main effects")


def test_a_run_without_axes_has_neither(quickstart):
    run = open_run(quickstart)
    assert (effects(run), claims(run)) == ("", "")
