"""The report on tables whose reliability and validity were planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from puna.core.errors import UserError
from puna.core.ranks import auc
from puna.papers.user_model.measurement import MOST_USERS, measure_table, report_text
from puna.papers.user_model.tables import Table


def planted(users: int = 500, windows: int = 2, noise: float = 1.0, seed: int = 0) -> Table:
    """Vectors of a trait (20 dimensions) and noise; the label is by the trait's first dimension.

    The content is the trait's first half; the length moves dimension 1 alone.
    """
    random = np.random.default_rng(seed)
    trait = random.normal(size=(users, 20))
    owner = np.repeat(np.arange(users), windows)
    length = random.normal(size=len(owner))
    vectors = trait[owner] + noise * random.normal(size=(len(owner), 20))
    vectors[:, 1] += 3 * length
    cohort = random.random(users) < 0.4
    return Table(
        np.array([f"{u:04d}" for u in range(users)]),
        owner,
        vectors,
        {f"c{i}": trait[owner, i] for i in range(10)},
        {"length": length},
        {
            "paid": (trait[:, 0] + random.normal(size=users) > 0).astype(float),
            "spent": trait[:, 2] + random.normal(size=users),
        },
        {"cohort": np.where(cohort, "b", "a")},
    )


def test_planted_reliability_is_found() -> None:
    for noise in (0.5, 1.0, 2.0):
        table = planted(noise=noise)
        plain = replace(table, vectors_RD=np.delete(table.vectors_RD, 1, axis=1))
        found = measure_table(plain).numbers()
        r = 1 / (1 + noise**2)
        assert found["icc"] == pytest.approx(r, abs=0.05)
        assert found["split_half"] == pytest.approx(2 * r / (1 + r), abs=0.05)
        assert found["split_half_share"] == (1.0 if noise < 1 else pytest.approx(0, abs=1))
    more = measure_table(planted(windows=4, noise=2.0)).numbers()
    assert more["split_half"] > measure_table(planted(noise=2.0)).numbers()["split_half"] + 0.1


def test_planted_validity_is_found() -> None:
    found = measure_table(planted(noise=0.5, seed=1)).numbers()
    best = planted(noise=0.5, seed=1)
    trait = best.mean_by_user(best.contents_RC["c0"][:, None])[:, 0]
    ceiling = auc(trait, best.labels_N["paid"])
    assert ceiling - 0.08 < found["auc_paid"] < ceiling + 0.02
    assert found["r2_spent"] == pytest.approx(0.5 * 1 / 1.125, abs=0.1)
    assert found["predict_auc"] == found["auc_paid"]
    assert found["content_r2"] == pytest.approx(0.8, abs=0.04)
    assert 0.4 < found["mantel"] < 0.9
    assert found["nuisance_length"] == pytest.approx(9 / 10.25, abs=0.05)
    assert found["auc_paid_residual"] == pytest.approx(found["auc_paid"], abs=0.02)
    assert found["auc_paid_content"] > 0.8
    assert found["auc_paid_nuisances"] == pytest.approx(0.5, abs=0.08)
    assert abs(found["effect_cohort"]) < 0.3
    assert abs(found["mrr_gap_cohort"]) < 0.06


def test_noise_is_found_to_be_noise() -> None:
    table = planted()
    noise = np.random.default_rng(9).normal(size=table.vectors_RD.shape)
    found = measure_table(replace(table, vectors_RD=noise)).numbers()
    assert found["auc_paid"] == pytest.approx(0.5, abs=0.08)
    assert found["r2_spent"] < 0.03
    assert found["icc"] == pytest.approx(0, abs=0.05)
    assert found["split_half"] < 0.15
    assert found["reid_mrr"] < 0.03
    assert abs(found["mantel"]) < 0.05
    assert found["content_r2"] < 0.03


def test_what_differs_between_cohorts_is_found() -> None:
    table = planted(noise=0.7)
    inside = table.groups_N["cohort"] == "b"
    shifted = table.vectors_RD.copy()
    shifted[inside[table.owner_R], 5] += 4
    random = np.random.default_rng(4)
    blurred = inside[table.owner_R, None] * random.normal(0, 6, size=shifted.shape)
    found = measure_table(replace(table, vectors_RD=shifted)).numbers()
    assert found["effect_cohort"] > 2
    unfair = measure_table(replace(table, vectors_RD=table.vectors_RD + blurred))
    gap = next(f for f in unfair.figures if f.name == "mrr_gap_cohort")
    assert gap.value > 0.4
    assert gap.low is not None
    assert 0.2 < gap.low < gap.value
    assert unfair.numbers()["auc_gap_cohort"] > 0.1


def test_residuals_take_off_what_rests_on_the_nuisance() -> None:
    table = planted()
    mean_length = table.mean_by_user(table.nuisances_RC["length"][:, None])[:, 0]
    by_length = replace(table, labels_N={"long": (mean_length > 0).astype(float)})
    found = measure_table(by_length).numbers()
    assert found["auc_long"] > 0.85
    assert found["auc_long_residual"] < 0.6
    assert found["auc_long_nuisances"] > 0.99


def test_two_trainings() -> None:
    table = planted(noise=0.3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    turned = replace(table, vectors_RD=table.vectors_RD @ turn)
    found = measure_table(table, turned).numbers()
    assert found["cka"] == pytest.approx(1)
    assert found["kappa"] > 0.75
    unlike = replace(table, vectors_RD=np.random.default_rng(5).normal(size=(1000, 20)))
    apart = measure_table(table, unlike).numbers()
    assert abs(apart["cka"]) < 0.05
    assert abs(apart["kappa"]) < 0.15
    with pytest.raises(UserError, match="other users or windows"):
        measure_table(table, planted(users=499))


def test_intervals_hold_the_value_and_shrink_with_users() -> None:
    widths = []
    for users in (100, 1600):
        figures = {f.name: f for f in measure_table(planted(users)).figures}
        for name in ("icc", "reid_mrr", "auc_paid", "r2_spent", "split_half"):
            figure = figures[name]
            assert figure.low is not None
            assert figure.high is not None
            assert figure.low < figure.value < figure.high
        widths.append(figures["auc_paid"].high - figures["auc_paid"].low)  # type: ignore[operator]
    assert widths[1] < widths[0] / 2


def test_a_bare_table_gets_what_it_can_and_a_line_for_the_rest() -> None:
    table = Table(np.array([str(u) for u in range(30)]), np.arange(30), np.eye(30))
    found = measure_table(table)
    assert found.figures == ()
    text = report_text("t.csv", found)
    assert text.startswith("t.csv: 30 users, 30 windows, 30 dimensions\n\nnot measured\n")
    for word in ("`window`", "`other`", "`content_*`", "`nuisance_*`", "`group_*`", "`label_*`"):
        assert word in text


def test_odd_tables_have_finite_figures() -> None:
    table = planted(40)
    n = len(table.owner_R)
    tables = [
        replace(table, vectors_RD=np.ones((n, 3))),
        replace(table, vectors_RD=np.full((n, 3), 0.1 + 0.2)),
        replace(table, labels_N={"none": np.zeros(40), "same": np.full(40, 3.0)}),
        replace(table, groups_N={"one": np.full(40, "a"), "all": table.names_N}),
        replace(table, contents_RC={"flat": np.ones(n)}, nuisances_RC={"flat": np.ones(n)}),
        planted(12),
        planted(40, windows=1),
    ]
    for odd in tables:
        found = measure_table(odd)
        assert all(np.isfinite(list(found.numbers().values())))
        assert " nan" not in report_text("odd", found)
    for same in tables[:2]:
        flat = measure_table(same).numbers()
        assert flat["dead_dimensions"] == 3
        assert flat["reid_mrr"] < 0.06
        assert flat["icc"] == 0
    assert "label none: one class has 0 users" in measure_table(tables[2]).left_out
    assert "label same: it is the same for all" in measure_table(tables[2]).left_out


def test_the_unit_of_a_vector_changes_nothing() -> None:
    table = planted(60)
    as_it_is = measure_table(table, table).numbers()
    for unit in (1e37, 1e-37):
        scaled = replace(table, vectors_RD=table.vectors_RD * unit)
        found = measure_table(scaled, scaled).numbers()
        assert found == pytest.approx(as_it_is, rel=1e-6, abs=1e-9)


def test_many_users_are_measured_on_a_draw() -> None:
    table = planted(MOST_USERS + 300)
    found = measure_table(table)
    assert found.users == MOST_USERS
    assert found == measure_table(table)
    assert found.numbers()["icc"] == pytest.approx(0.5, abs=0.1)
