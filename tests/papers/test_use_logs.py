"""Made users have the truth that is said of them, and MovieLens is read or refused by row."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from puna.core.errors import UserError
from puna.core.ranks import ranks_of_own
from puna.papers.use.made import (
    EVENTS,
    INTENTS,
    LEAVE,
    MOTIF,
    balanced,
    likelihoods,
    make_log,
)
from puna.papers.use.movielens import read_movielens


def test_a_balanced_matrix_keeps_every_intent_as_frequent():
    weights = np.random.default_rng(0).random((3, 8, 8)) + 0.1
    out = balanced(weights)
    assert np.allclose(out.sum(axis=-1), 1)
    assert np.allclose(out.sum(axis=-2), 1, atol=1e-6)
    assert np.allclose(np.diagonal(out, axis1=1, axis2=2), 0)
    # Scaling rows and columns keeps the ratios of ratios.
    odds = [x[0, 1] * x[2, 3] / (x[0, 3] * x[2, 1]) for x in (weights[0], out[0])]
    assert odds[0] == pytest.approx(odds[1])


def test_a_log_repeats_exactly_and_parts_have_their_own_users():
    one, same = make_log(3, "test", 4, 2, 30), make_log(3, "test", 4, 2, 30)
    other = make_log(3, "train", 4, 2, 30)
    assert np.array_equal(one.events_NT, same.events_NT)
    assert np.array_equal(one.emit_JV, other.emit_JV)
    assert not np.array_equal(one.events_NT, other.events_NT)
    assert not np.array_equal(one.emit_JV, make_log(4, "test", 4, 2, 30).emit_JV)


def test_events_are_as_frequent_as_the_habits_say():
    log = make_log(0, "test", 2, 1, 20_000)
    found, expected = [], []
    for user in range(2):
        events = log.events_NT[user]
        found.append(np.bincount(events[events < MOTIF[0]], minlength=EVENTS) / len(events))
        values, vectors = np.linalg.eig(log.habits_NPJJ[user, 0].T)
        often = np.real(vectors[:, np.argmax(np.real(values))])
        expected.append(often / often.sum() @ log.emit_JV)
    own = [np.abs(f - e).sum() for f, e in zip(found, expected, strict=True)]
    other = [np.abs(f - e).sum() for f, e in zip(found, expected[::-1], strict=True)]
    assert max(own) < 0.1
    assert min(other) > 3 * max(own)


def test_the_motif_runs_forward_in_flagged_users_and_backward_in_others():
    log = make_log(1, "test", 40, 2, 1000)
    for row, flag in zip(log.events_NT, log.labels["flag"], strict=True):
        triples = row[: len(row) // 3 * 3].reshape(-1, 3)
        found = triples[(triples >= MOTIF[0]).any(axis=1)]
        assert len(found)
        assert (found == (MOTIF if flag else MOTIF[::-1])).all()


def test_likelihoods_are_those_of_products_of_whole_matrices():
    log = make_log(2, "test", 5, 3, 12, fresh=1)
    found = likelihoods(log, first=1, periods=2)
    for u in range(5):
        for v in range(5):
            assert found[u, v] == pytest.approx(by_matrices(log, u, v), rel=1e-4)


def by_matrices(log, u, v):
    """log P of user u's events under v's habits, with one 16 x 16 matrix for each step."""
    events = log.events_NT[u, 12:]
    if log.labels["flag"][u] != log.labels["flag"][v] and (events >= MOTIF[0]).any():
        return -np.inf
    weight = np.concatenate([np.full(INTENTS, 1 / INTENTS), np.zeros(INTENTS)])
    stay, go = np.eye(INTENTS) * (1 - LEAVE), np.eye(INTENTS) * LEAVE
    for t, event in enumerate(events):
        habits = LEAVE * log.habits_NPJJ[v, 1 + t // 12]
        emit = np.ones(INTENTS) if event >= MOTIF[0] else log.emit_JV[:, event]
        weight = (weight * np.tile(emit, 2)) @ np.block([[stay, go], [habits, stay]])
    return np.log(weight.sum())


def test_who_knows_the_habits_finds_users_again():
    log = make_log(0, "test", 40, 16, 120, fresh=8)
    assert ranks_of_own(likelihoods(log, 8, 8)).mean() > 0.9
    # Other users' habits find nobody: chance is the mean of 1/1 to 1/40.
    wrong = np.roll(likelihoods(log, 8, 8), 1, axis=1)
    assert ranks_of_own(wrong).mean() < 0.3
    assert EVENTS == 200


FILES = {
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tA\t1995\tDrama War\n2\tB\t1995\tComedy\n3\tC\t1995\tWar\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "7\t24\tM\tx\t1\n8\t53\tF\ty\t2\n9\t30\tF\tz\t3\n",
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "7\t1\t3\t300\n8\t2\t5\t5\n7\t3\t4\t100\n7\t2\t1\t300\n",
}


def written(folder, **changed):
    for name, text in (FILES | {f"ml-100k.{k}": v for k, v in changed.items()}).items():
        (folder / name).write_text(text)
    return folder


def test_events_are_first_genres_liked_or_not_in_times_order(tmp_path):
    found = read_movielens(written(tmp_path))
    assert found.kinds == ("Comedy", "Drama", "War")
    # Of user 7: film 3 (War, liked) at 100, then at 300 film 1 (Drama, not) before film 2.
    assert [h.tolist() for h in found.histories] == [[5, 2, 0], [1]]
    assert {k: v.tolist() for k, v in found.labels.items()} == {"gender": [0, 1], "age": [24, 53]}


HEAD = FILES["ml-100k.inter"].splitlines()[0] + "\n"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("inter", HEAD + "7\t1\tnan\t300\n", "inter row 2: rating is 'nan'"),
        ("inter", HEAD + "7\t1\t3\t1\n7\t2\t6\t1\n", "inter row 3: rating is '6'"),
        ("inter", HEAD + "7\t1\t3\tx\n", "inter row 2: timestamp is 'x'"),
        ("inter", HEAD + "7\t1\t3\tinf\n", "inter row 2: timestamp is 'inf'"),
        ("inter", HEAD + "7\t1\t3\n", "inter row 2: 3 fields"),
        ("inter", HEAD + "7\t9\t3\t1\n", "inter row 2: there is no film 9"),
        ("inter", HEAD + "6\t1\t3\t1\n", "inter row 2: there is no user 6"),
        ("inter", HEAD + "7\t1\t3\t1\n7\t1\t4\t2\n", "inter row 3: user 7 rates film 1 twice"),
        ("inter", HEAD, "inter has no rows"),
        ("inter", "", "inter row 1: no field user_id"),
        ("item", "item_id:token\n1\n", "item row 1: no field class"),
        ("item", "item_id:token\tclass:x\n1\tA\n1\tB\n", "item row 3: film 1 comes twice"),
        ("user", FILES["ml-100k.user"] + "7\t1\tF\tx\t1\n", "user row 5: user 7 comes twice"),
        ("user", FILES["ml-100k.user"] + "5\told\tF\tx\t1\n", "user row 5: age is 'old'"),
        ("user", FILES["ml-100k.user"] + "5\t9\tQ\tx\t1\n", "user row 5: gender is 'Q'"),
    ],
)
def test_a_malformed_file_is_refused_by_row(tmp_path, file, text, says):
    with pytest.raises(UserError) as refused:
        read_movielens(written(tmp_path, **{file: text}))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_and_binary_files_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"no file .*ml-100k\.item"):
        read_movielens(tmp_path)
    written(tmp_path)
    (tmp_path / "ml-100k.user").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read .*ml-100k\.user"):
        read_movielens(tmp_path)


def test_the_real_ratings_where_they_are_installed(tmp_path):
    spec = importlib.util.find_spec("recbole")
    real = (
        [Path(p) / "dataset_example/ml-100k" for p in spec.submodule_search_locations or ()]
        if spec
        else []
    )
    for folder in real:
        found = read_movielens(folder)
        assert len(found.histories) == 943
        assert sum(map(len, found.histories)) == 100_000
        assert int(found.labels["gender"].sum()) == 273
