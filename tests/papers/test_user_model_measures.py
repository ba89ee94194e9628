"""The measures by hand, by what must not change them, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from scipy.spatial.distance import pdist  # type: ignore[import-untyped]

from puna.core.ranks import auc, ranks_of_own
from puna.papers.user_model.measures import (
    FOLDS,
    PENALTIES,
    bootstrap,
    chance_mrr,
    correlations,
    directions,
    effect_size,
    explained,
    folds_of,
    held_out_auc,
    held_out_guesses,
    icc,
    kappa,
    linear_cka,
    mantel,
    reciprocal_ranks,
    residuals,
    ridge,
    spearman_brown,
)

# Six targets, four judges: table 2 of Shrout and Fleiss 1979, whose ICC(2,1) is 0.29.
JUDGES = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(3).normal(size=(d, d)))[0]


def test_icc_of_the_published_table() -> None:
    assert icc(JUDGES[:, :, None]) == pytest.approx(0.2898, abs=5e-5)


def test_icc_is_the_same_in_a_turned_space_and_sees_a_shift() -> None:
    random = np.random.default_rng(0)
    user = random.normal(size=(400, 1, 3))
    x = user + random.normal(size=(400, 2, 3))
    assert icc(x) == pytest.approx(icc(x @ rotation(3)), abs=1e-12)
    assert icc(x) == pytest.approx(0.5, abs=0.05)
    assert icc(np.repeat(user, 2, axis=1)) == pytest.approx(1)
    assert icc(x + np.array([0, 2])[None, :, None]) < icc(x) - 0.1  # agreement, not correlation
    assert icc(np.ones((5, 2, 3))) == 0


def test_correlation_and_spearman_brown() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(2, 50, 3))
    b[:, 0] += a[:, 0]
    a[:, 2] = 4
    found = correlations(a, b)
    for d in (0, 1):
        assert found[d] == pytest.approx(stats.pearsonr(a[:, d], b[:, d])[0])
    assert found[2] == 0
    assert spearman_brown(np.array([0.5, 1, 0, -0.5])).tolist() == [2 / 3, 1, 0, -0.5]


def test_ranks_by_hand_and_ties_earn_chance_at_most() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.6], [0.3, 0.3, 0.3]])
    assert ranks_of_own(scores).tolist() == [1, 1 / 3, 1 / 2]
    alike = reciprocal_ranks(np.ones((50, 3)), np.ones((50, 3)))
    assert alike.mean() == pytest.approx(2 / 51)
    assert alike.mean() < chance_mrr(50)
    assert chance_mrr(3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_random_vectors_are_ranked_at_random() -> None:
    random = np.random.default_rng(0)
    found = reciprocal_ranks(*random.normal(size=(2, 800, 16))).mean()
    assert found == pytest.approx(chance_mrr(800), abs=0.006)
    x = random.normal(size=(100, 16))
    assert reciprocal_ranks(x, x + 0.1 * random.normal(size=x.shape)).mean() > 0.95


def test_what_all_users_share_is_taken_off() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4))
    np.testing.assert_allclose(directions(x + 1000), directions(x), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(directions(x), axis=1), 1)
    assert not directions(np.ones((3, 2))).any()


def test_cka_is_one_for_a_turned_space_and_nothing_for_another() -> None:
    random = np.random.default_rng(0)
    x, other = random.normal(size=(2, 60, 200))
    assert linear_cka(x, 3 * x @ rotation(200) + 5) == pytest.approx(1)
    assert abs(linear_cka(x, other)) < 0.1
    k, m = (v - v.mean(0) for v in (x, other))
    biased = np.linalg.norm(k.T @ m) ** 2 / np.linalg.norm(k.T @ k) / np.linalg.norm(m.T @ m)
    assert biased > 0.7  # what the plain estimate says of unrelated spaces
    assert linear_cka(x, np.ones((60, 2))) == 0


def test_mantel_against_scipy() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 5))
    y = x[:, :3] + random.normal(size=(40, 3))
    theirs = stats.pearsonr(pdist(x - x.mean(0), "cosine"), pdist(y - y.mean(0), "cosine"))[0]
    assert mantel(x, y) == pytest.approx(theirs)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_auc_is_scipys_u(rows: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    if 0 < labels.sum() < len(labels):
        u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
        share = u / (labels.sum() * (1 - labels).sum())
        assert auc(scores, labels) == pytest.approx(share)


def test_explained_kappa_and_effect_by_hand() -> None:
    truth = np.array([[1.0, 7], [3, 7]])
    assert explained(truth, np.array([[1.0, 7], [2, 7]])).tolist() == [0.5, 0]
    assert explained(truth, np.array([[2.0, 0], [2, 0]]))[0] == 0
    a = np.array([1, 1, 0, 0, 1], bool)
    b = np.array([1, 0, 0, 0, 1], bool)
    # They agree in 0.8; by chance in 0.6 x 0.4 + 0.4 x 0.6 = 0.48.
    assert kappa(a, b) == pytest.approx(0.32 / 0.52)
    assert kappa(a, a) == 1
    assert kappa(np.ones(4, bool), np.ones(4, bool)) == 0
    scores, inside = np.array([3.0, 5, 1, 3]), np.array([1, 1, 0, 0], bool)
    assert effect_size(scores, inside) == pytest.approx(2 / np.sqrt(2))


def test_ridge_takes_the_penalty_of_least_gcv_error() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 30)) * random.uniform(0.1, 9, 30) + 5
    y = np.column_stack([x[:, 0] + random.normal(size=40), random.normal(size=40)])
    z = (x - x.mean(0)) / x.std(0)
    found = ridge(x, y)(x)
    for c in range(2):
        centred, fits, errors = y[:, c] - y[:, c].mean(), [], []
        for penalty in 40 * PENALTIES:
            hat = z @ np.linalg.solve(z.T @ z + penalty * np.eye(30), z.T)
            fits.append(hat @ centred)
            left = 1 - (1 + np.trace(hat)) / 40
            errors.append(np.mean((centred - hat @ centred) ** 2) / left**2)
        np.testing.assert_allclose(found[:, c], fits[int(np.argmin(errors))], atol=1e-8)
    assert np.abs(found[:, 1]).max() < 0.5 * np.abs(y[:, 1]).max()


def test_ridge_bears_constant_and_repeated_columns_and_more_columns_than_rows() -> None:
    random = np.random.default_rng(0)
    signal = random.normal(size=(60, 1))
    wide = np.column_stack([signal, signal, np.full(60, 0.1 + 0.2), random.normal(size=(60, 100))])
    guesses = held_out_guesses(wide, signal, folds_of(60, 0))
    assert np.isfinite(guesses).all()
    assert explained(signal, guesses)[0] > 0.1
    assert not ridge(np.ones((10, 2)), signal[:10])(np.ones((3, 2))).any()


def test_guesses_are_of_rows_not_fitted_on() -> None:
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(300, 40)), random.normal(size=(300, 1))
    fold = folds_of(300, 0)
    assert np.bincount(fold).tolist() == [60] * FOLDS
    held_out = explained(noise, held_out_guesses(x, noise, fold))[0]
    assert held_out < 0.05
    fitted = x @ np.linalg.lstsq(x, noise, rcond=None)[0]
    assert explained(noise, fitted)[0] > held_out + 0.08
    signal = x[:, :1] + 0.5 * random.normal(size=(300, 1))
    assert explained(signal, held_out_guesses(x, signal, fold))[0] == pytest.approx(0.8, abs=0.06)


def test_knowing_nothing_is_an_auc_of_one_half() -> None:
    random, within, pooled = np.random.default_rng(1), [], []
    for seed in range(150):
        x, label = random.normal(size=(60, 20)), (random.random((60, 1)) < 0.2).astype(float)
        fold = folds_of(60, seed)
        guess = held_out_guesses(x, label, fold)[:, 0]
        within.append(held_out_auc(guess, label[:, 0], fold))
        pooled.append(auc(guess, label[:, 0]))
    assert np.mean(within) == pytest.approx(0.5, abs=0.02)
    assert np.mean(pooled) < 0.48


def test_auc_within_folds_by_hand() -> None:
    label, fold = np.array([1.0, 0, 1, 0, 0, 1]), np.array([0, 0, 1, 1, 1, 2])
    guess = np.array([1.0, 0, 5, 4, 6, 0])
    # One pair won in fold 0; one of two in fold 1; none in fold 2.
    assert held_out_auc(guess, label, fold) == pytest.approx(2 / 3)
    assert np.isnan(held_out_auc(guess, np.ones(6), fold))


def test_residuals_hold_nothing_of_the_nuisance() -> None:
    random = np.random.default_rng(0)
    length = random.normal(size=(80, 1))
    x = 3 * length + random.normal(size=(80, 4)) + 10
    left = residuals(x, length)
    assert np.abs(correlations(left, np.repeat(length, 4, 1))).max() < 1e-9
    assert correlations(x, np.repeat(length, 4, 1)).min() > 0.9


def test_bootstrap_of_a_mean_is_near_its_t_interval() -> None:
    x = np.random.default_rng(0).normal(3, 2, 100)
    low, high = bootstrap(lambda rows: float(x[rows].mean()), 100, seed=0, draws=2000)
    half = 1.96 * x.std(ddof=1) / 10
    assert low == pytest.approx(x.mean() - half, abs=0.06)
    assert high == pytest.approx(x.mean() + half, abs=0.06)
    assert all(np.isnan(bootstrap(lambda rows: float("nan"), 5, seed=0)))
