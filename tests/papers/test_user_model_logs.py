"""The made log is what it says it is; MovieLens is read strictly; windows do not tell length."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from puna.core.errors import UserError
from puna.core.ranks import auc
from puna.papers.user_model.baselines import fit_baselines, log_counts, pair_counts
from puna.papers.user_model.logs import WINDOWS, Log, cut, read_movielens, shares
from puna.papers.user_model.measures import chance_mrr, correlations
from puna.papers.user_model.synthetic import COUPLING, EACH, INTENTS, make_log


def test_the_likelihood_sums_to_one() -> None:
    _, truth = make_log(3, 10, seed=0)
    total = sum(
        np.exp(truth.log_likelihood(np.array(pair), 4))
        for pair in product(range(INTENTS * EACH), repeat=2)
    )
    np.testing.assert_allclose(total, 1)


def test_behaviour_is_as_the_truth_says() -> None:
    log, truth = make_log(40, 3000, seed=1)
    for user in (0, 17):
        events = log.events[user]
        intents, kinds = events // EACH, events % EACH
        same = intents[1:] == intents[:-1]
        partner = kinds[1:] == kinds[:-1] ^ (1 + truth.habit_NK[user, intents[1:]])
        follows = COUPLING + (1 - COUPLING) / EACH
        assert partner[same].mean() == pytest.approx(follows, abs=0.04)
        expected = truth.stay_N[user] + (1 - truth.stay_N[user]) * np.mean(
            [truth.mixture(t)[user, intents[t - 1]] for t in range(1, 3000, 10)]
        )
        assert same.mean() == pytest.approx(expected, abs=0.05)
    # Within an intent all kinds are alike, whatever the habit: counts do not show it.
    counts = np.bincount(np.concatenate(log.events) % EACH)
    np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.05)


def test_users_are_told_apart_by_their_true_ways() -> None:
    log, truth = make_log(60, 512, seed=2)
    windows = cut(log, 64, seed=0)
    ceiling = truth.own_ranks(windows).mean()
    assert ceiling > 0.5
    order = np.random.default_rng(0).permutation(60)
    strangers = replace(
        truth,
        stay_N=truth.stay_N[order],
        taste_NK=truth.taste_NK[order],
        drift_NK=truth.drift_NK[order],
        habit_NK=truth.habit_NK[order],
    )
    assert strangers.own_ranks(windows).mean() < 3 * chance_mrr(60)


def test_labels_are_drawn_from_their_chances() -> None:
    log, truth = make_log(4000, 8, seed=3)
    for name in ("reported", "deleted"):
        chance, label = truth.expected_N[name], log.labels_N[name]
        assert label.mean() == pytest.approx(chance.mean(), abs=0.02)
        for low, high in ((0, 0.2), (0.3, 0.6), (0.7, 1)):
            inside = (chance > low) & (chance < high)
            assert label[inside].mean() == pytest.approx(chance[inside].mean(), abs=0.05)
        assert auc(chance, label) > 0.75
    assert 0.05 < log.labels_N["reported"].mean() < 0.3
    noise = log.labels_N["ad_seconds"] - truth.expected_N["ad_seconds"]
    assert noise.std() == pytest.approx(5, abs=0.2)


def test_a_log_is_its_seeds() -> None:
    first, again, other = (make_log(5, 50, seed)[0] for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first.events, again.events, strict=True))
    assert not np.array_equal(first.events[0], other.events[0])


def test_windows_are_apart_and_their_length_is_chance() -> None:
    random = np.random.default_rng(0)
    events = tuple(np.arange(n) for n in random.integers(30, 400, 300))
    names = np.array([f"{u:03d}" for u in range(300)])
    log = Log(names, events, 400, {}, names)
    windows = cut(log, 32, seed=0)
    assert windows.users_N.tolist() == [u for u in range(300) if len(events[u]) >= 64]
    sizes = np.array([len(w) for w in windows.short]).reshape(-1, WINDOWS)
    assert sizes.min() == 16
    assert sizes.max() == 32
    for i, user in enumerate(windows.users_N):
        rows = windows.short[WINDOWS * i : WINDOWS * (i + 1)]
        joined = np.concatenate(rows)
        assert len(np.unique(joined)) == len(joined)  # events are their own places here
        assert joined.tolist() == sorted(joined)
        first, second = windows.long[2 * i : 2 * i + 2]
        assert first[0] == 0
        assert first[-1] < second[0]
        assert len(first) == len(second) == min(128, len(events[user]) // 4 * 2)
        assert [w[0] for w in rows] == windows.start_R[WINDOWS * i : WINDOWS * (i + 1)].tolist()
    long = np.array([len(events[u]) >= 4 * 32 for u in windows.users_N])
    ends = sizes[long][:, [0, -1]].astype(float)
    assert abs(correlations(ends[:, :1], ends[:, 1:])[0]) < 0.15
    with pytest.raises(UserError, match="0 users held out have 2000 events or more; 20 are needed"):
        cut(log, 1000, seed=0)


def test_counts_by_hand() -> None:
    windows = [np.array([0, 1, 1, 2]), np.array([2, 2, 1])]
    assert shares(windows, 3).tolist() == [[0.25, 0.5, 0.25], [0, 1 / 3, 2 / 3]]
    assert np.expm1(log_counts(windows, 3)).round(9).tolist() == [[1, 2, 1], [0, 1, 2]]
    # Pairs in order 00 01 02 11 12 22, in either direction.
    assert pair_counts(windows, 3).tolist() == [[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]


def test_components_are_those_of_the_training_windows() -> None:
    random = np.random.default_rng(0)
    train = [random.integers(0, 8, 50) for _ in range(100)]
    fitted = fit_baselines(train, 8, 3, seed=0)
    x = fitted["pca"](train)
    assert x.shape == (100, 3)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
    covariance = x.T @ x
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-9)
    assert fit_baselines(train, 8, 64, seed=0)["pca"](train).shape == (100, 7)  # shares sum to one
    np.testing.assert_allclose(fitted["pca"](train[:1])[0], x[0])


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"


def movielens(folder: Path, **changes: str) -> Path:
    """Two users and a stranger to ratings; the first one's are not in order of time."""
    ratings = [("1", "10", 5, 9), ("1", "11", 2, 1), ("1", "12", 4, 5), ("1", "13", 3, 7)]
    ratings += [("1", "14", 4, 11), ("1", "15", 1, 2)]
    ratings += [("2", str(10 + i), 3, i) for i in range(5)]
    items = [f"{10 + i}\tFilm {i}\t1990\t{'Drama War' if i % 2 else 'Action'}" for i in range(6)]
    files = {
        "inter": [INTER, *("\t".join(map(str, row)) for row in ratings)],
        "item": [ITEM, *items],
        "user": [USER, "2\t30\tF\tstudent\t1", "1\t20\tM\twriter\t2", "3\t40\tM\twriter\t3"],
    }
    for name, lines in files.items():
        text = changes.get(name, "\n".join(lines) + "\n")
        (folder / f"ml-100k.{name}").write_text(text)
    return folder


def test_movielens_by_hand(tmp_path: Path) -> None:
    log = read_movielens(movielens(tmp_path))
    assert log.names_N.tolist() == ["1", "2"]
    # In time: 11 Drama 2, 15 Drama 1, 12 Action 4, 13 Drama 3; 10 Action 5 and 14 Action 4 later.
    assert log.events[0].tolist() == [2, 2, 1, 2]
    assert log.events[1].tolist() == [0, 2, 0, 2]
    assert log.vocab == 4
    assert {k: v.tolist() for k, v in log.labels_N.items()} == {
        "male": [1, 0], "student": [0, 1], "age": [20, 30], "later_liked": [1, 0],
    }  # fmt: skip
    assert log.cohort_N.tolist() == ["M", "F"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"inter": INTER + "\n1\t10\t5\n"}, "inter row 1: 3 cells, the header has 4"),
        ({"inter": INTER + "\n1\t10\t5\t1\n1\t11\tx\t1\n"}, "inter row 2: rating is 'x'"),
        ({"inter": INTER + "\n1\t10\t5\tnan\n"}, "inter row 1: timestamp is 'nan'"),
        ({"inter": INTER + "\n9\t10\t5\t1\n"}, "inter row 1: unknown user '9'"),
        ({"inter": INTER + "\n1\t99\t5\t1\n"}, "inter row 1: unknown item '99'"),
        (
            {"inter": INTER + "\n1\t10\t5\t1\n2\t10\t5\t1\n1\t10\t4\t2\n"},
            "inter row 3: user '1' rated item '10' in row 1 already",
        ),
        ({"inter": "user_id\titem_id\n"}, "inter has no column 'rating'"),
        ({"inter": INTER + "\n1\t10\t5\t1\n"}, "inter has no user with 5 ratings"),
        ({"inter": ""}, "inter has no column 'user_id'"),
        ({"item": ITEM + "\n10\tFilm\t1990\t \n"}, "item row 1: no genre"),
        ({"user": USER + "\n1\told\tM\twriter\t2\n"}, "user row 1: age is 'old'"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, change: dict[str, str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        read_movielens(movielens(tmp_path, **change))
    assert f"{tmp_path}/ml-100k.{line}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*ml-100k.item.*--data takes a folder"):
        read_movielens(tmp_path)
    (movielens(tmp_path) / "ml-100k.user").write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match="cannot read"):
        read_movielens(tmp_path)
