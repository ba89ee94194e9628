"""The store of states: equal to the whole life, idempotent, forgetful when told, safe to race."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_run import environment

from puna.core.errors import UserError
from puna.papers.use.method import Encoder, Shape
from puna.papers.use.store import StateStore

SHAPE = Shape(events=20, width=16, layers=1, heads=2)
LIFE = np.random.default_rng(3).integers(20, size=60).tolist()


def encoder(seed=0):
    torch.manual_seed(seed)
    return Encoder(SHAPE).eval()


def whole(events):
    return encoder().encode(torch.tensor([events])).embedding()[0].numpy()


def test_refreshes_add_up_to_the_whole_life(tmp_path):
    for period in range(4):
        # A store opened anew each time: what counts is on the disk.
        store = StateStore(tmp_path, encoder())
        vector = store.refresh("ann", period, LIFE[15 * period : 15 * period + 15])
        assert np.abs(vector - whole(LIFE[: 15 * period + 15])).max() < 1e-5
    assert np.abs(vector - whole(LIFE[45:])).max() > 1e-2
    assert np.array_equal(store.embedding("ann"), vector)


def test_a_refresh_given_twice_counts_once(tmp_path):
    store = StateStore(tmp_path, encoder())
    store.refresh("ann", 1, LIFE[:20])
    first = store.refresh("ann", 2, LIFE[20:40])
    (file,) = tmp_path.glob("*.safetensors")
    kept = file.read_bytes()
    assert np.array_equal(store.refresh("ann", 2, LIFE[20:40]), first)
    assert file.read_bytes() == kept
    with pytest.raises(UserError, match="period 2 is not after 2"):
        store.refresh("ann", 2, LIFE[20:41])
    with pytest.raises(UserError, match="period 1 is not after 2"):
        store.refresh("ann", 1, LIFE[:20])
    assert file.read_bytes() == kept


def test_a_period_without_events_changes_no_vector(tmp_path):
    store = StateStore(tmp_path, encoder())
    assert not store.refresh("new", 0, []).any()
    first = store.refresh("ann", 0, LIFE)
    assert np.array_equal(store.refresh("ann", 1, []), first)
    assert np.array_equal(store.refresh("ann", 5, []), first)
    with pytest.raises(UserError, match="period 3 is not after 5"):
        store.refresh("ann", 3, [1])


def test_a_user_who_is_deleted_is_gone(tmp_path):
    store = StateStore(tmp_path, encoder())
    store.refresh("ann", 7, LIFE)
    store.refresh("bob", 7, LIFE[:5])
    assert sorted(store.users()) == ["ann", "bob"]
    assert store.delete("ann")
    assert not store.delete("ann")
    assert list(store.users()) == ["bob"]
    assert store.embedding("ann") is None
    assert not any(b"ann" in path.read_bytes() for path in tmp_path.rglob("*.safetensors"))
    # Whoever comes back begins anew, at any period.
    assert np.abs(store.refresh("ann", 1, LIFE[:9]) - whole(LIFE[:9])).max() < 1e-6


def test_another_models_state_is_refused(tmp_path):
    StateStore(tmp_path, encoder()).refresh("ann", 1, LIFE)
    other = StateStore(tmp_path, encoder(seed=1))
    with pytest.raises(UserError, match="state of user 'ann' is of another model"):
        other.refresh("ann", 2, LIFE)
    with pytest.raises(UserError, match="another model"):
        other.embedding("ann")
    assert other.delete("ann")


def test_wrong_events_leave_the_state_as_it_was(tmp_path):
    store = StateStore(tmp_path, encoder())
    before = store.refresh("ann", 1, LIFE)
    with pytest.raises(ValueError, match="event 1: 20 is no event type"):
        store.refresh("ann", 2, [0, 20])
    for wrong in ([0, -1], [1.5], ["3"], [[1]], [10**30]):
        with pytest.raises(ValueError, match=r"no event|whole numbers"):
            store.refresh("ann", 2, wrong)
    assert np.array_equal(store.embedding("ann"), before)


@pytest.mark.parametrize("name", ["", "../../etc", "a/b", "\ud800", "x" * 1000, "nul\0"])
def test_any_name_is_a_users(tmp_path, name):
    store = StateStore(tmp_path / "states", encoder())
    store.refresh(name, 0, [1, 2, 3])
    assert list(store.users()) == [name]
    assert {p.name for p in tmp_path.iterdir()} == {"states"}
    assert store.delete(name)


def test_a_broken_file_is_one_line(tmp_path):
    store = StateStore(tmp_path, encoder())
    store.refresh("ann", 1, LIFE)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="is no user's state"):
        store.refresh("ann", 2, LIFE)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="is no user's state"):
        list(store.users())


def test_a_kill_in_the_midst_leaves_the_old_state_or_the_new(tmp_path):
    store = StateStore(tmp_path, encoder())
    before = store.refresh("ann", 1, LIFE[:30])
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/papers']; from pathlib import Path\n"
        "from test_use_store import LIFE, StateStore, encoder\n"
        f"StateStore(Path({str(tmp_path)!r}), encoder()).refresh('ann', 2, LIFE[30:])"
    )
    for point, after in (("use.written", False), ("use.renamed", True)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment() | {"PUNA_CRASH_AT": point},
            cwd=__file__.rpartition("/tests/")[0],
            timeout=120,
        )
        assert done.returncode == -9
        found = StateStore(tmp_path, encoder()).embedding("ann")
        assert np.array_equal(found, before) != after
    assert np.abs(found - whole(LIFE)).max() < 1e-5


def test_two_that_race_for_a_user_both_count(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/papers']; from pathlib import Path\n"
        "from test_use_store import LIFE, StateStore, UserError, encoder\n"
        f"store = StateStore(Path({str(tmp_path)!r}), encoder())\n"
        "for p in range(20):\n"
        "    store.refresh('ann', p, LIFE[3 * p : 3 * p + 3])\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment(),
            cwd=__file__.rpartition("/tests/")[0],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [racer.communicate(timeout=120)[1] for racer in racers]
    # One may fall behind, and is told so; nothing is counted twice or lost.
    assert any(racer.returncode == 0 for racer in racers), said
    for racer, text in zip(racers, said, strict=True):
        assert racer.returncode == 0 or "is not after" in text, text
    found = StateStore(tmp_path, encoder()).embedding("ann")
    assert np.abs(found - whole(LIFE)).max() < 1e-5
