"""The experiment of USE: numbers for every claim, exact repeats, pools and states by hand."""

import numpy as np
import pytest
import torch

from puna.core.errors import UserError
from puna.papers.paper import load_paper
from puna.papers.use import protocol
from puna.papers.use.experiment import Config, measure, read_users
from puna.papers.use.made import make_log
from puna.papers.use.method import PAD, Encoder, Shape

SMALL = {"periods": 2, "steps": 3, "batch": 4, "length": 8, "width": 16}
TINY = Config(users=30, train_users=30, period=20, gap=5, **SMALL)
TIMED = ("refresh_s", "recompute_s", "speedup", "growth")


@pytest.fixture(scope="module")
def numbers():
    return measure(TINY, 0)


def test_there_is_a_number_for_every_claim(numbers):
    for claim in load_paper("use").claims:
        if claim.testable:
            assert claim.metric in numbers
            assert not isinstance(claim.against, str) or claim.against in numbers


def test_the_numbers_are_what_they_are_called(numbers):
    assert numbers["mrr_chance"] == pytest.approx(sum(1 / k for k in range(1, 31)) / 30)
    assert numbers["gap_state"] < 1e-5
    assert numbers["gap_forms"] < 1e-12
    # 2 layers, 4 heads of 4 x 4 floats; a count; 16 sums in 64 bits.
    assert numbers["state_bytes"] == 2 * 4 * 4 * 4 * 4 + 8 + 16 * 8
    assert numbers["mrr_recent_1"] == numbers["mrr_pool_1"] == numbers["mrr_stateful_1"]
    static = [numbers[name] for name in ("cohort", "flag", "churn", "engagement")]
    assert numbers["static"] == pytest.approx(np.mean(static))


def test_a_seed_repeats_exactly(numbers):
    again = measure(TINY, 0)
    for name, value in numbers.items():
        assert name.startswith(TIMED) or again[name] == value, name
    other = measure(TINY, 1)
    assert other["mrr_counts"] != numbers["mrr_counts"]


def test_views_by_hand():
    torch.manual_seed(0)
    model = Encoder(Shape(events=9, width=16, layers=1, heads=2)).eval()
    ids = torch.randint(9, (3, 40), generator=torch.Generator().manual_seed(1))
    history = ids.clone()
    history[1, 30:] = PAD
    views = protocol.embed(model, history, ids, period=10)
    alone = [model.encode(ids[:, t : t + 10]).embedding().double().numpy() for t in (0, 10, 20, 30)]
    assert np.allclose(views.recent_PND, alone)
    assert np.allclose(views.pool_PND[2], np.mean(alone[:3], axis=0))
    whole = model.encode(ids[:, :30]).embedding().double().numpy()
    assert np.abs(views.stateful_PND[2] - whole).max() < 1e-5
    assert np.abs(views.pool_PND[2] - whole).max() > 1e-3
    short = model.encode(history[1:2, :30]).embedding().double().numpy()
    assert np.abs(views.history_ND[1] - short[0]).max() < 1e-5


def test_counted_views_by_hand():
    ids = torch.tensor([[0, 0, 1, 2], [2, 2, 2, PAD]])
    assert protocol.counts(ids, 3).tolist() == [[2, 1, 1], [0, 0, 3]]
    views = protocol.count_views(ids, ids[:, :2], 1, 3)
    # Of two users one has events 0 and 1, both have event 2.
    log = np.log(1.5)
    assert np.allclose(views.history_ND, [[0.5 * log, 0.25 * log, 0], [0, 0, 0]])
    assert np.allclose(views.stateful_PND[1], [[log, 0, 0], [0, 0, 0]])


def test_whose_habits_moved_is_told_by_the_angle():
    history = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    context = np.array([[2.0, 0.1], [-2.0, 0.1], [1.0, 0.0], [-1.0, 0.0]])
    empty = np.zeros((1, 4, 2))
    views = protocol.Views(history, empty, empty, empty, context[None])
    assert protocol.drift(views, np.array([0, 0, 1.0, 1.0])) == 1.0
    assert protocol.drift(views, np.array([1.0, 1.0, 0, 0])) == 0.0


def test_users_are_recognised_where_periods_are_alike():
    random = np.random.default_rng(0)
    centre = random.normal(size=(6, 8))
    near = centre + 0.05 * random.normal(size=(5, 6, 8))
    none = np.zeros((0, 6, 8))
    same = protocol.Views(centre, near[:3], near[3:], none, none)
    assert protocol.recognise(same) == 1.0
    shifted = protocol.Views(centre, near[:3], np.roll(near[3:], 1, axis=1), none, none)
    assert protocol.recognise(shifted) == 0.0


def test_a_refresh_costs_the_same_however_long_the_life():
    model = Encoder(Shape(events=9, width=16, layers=1, heads=2)).eval()
    found = protocol.cost(model, 100, (1_000, 20_000), seed=0)
    assert found["recompute_s_20000"] > 20 * found["refresh_s_20000"]
    assert found["refresh_s_20000"] < 5 * found["refresh_s_1000"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"users": 3}, "at least 30"),
        ({"objective": "mlm"}, "no objective 'mlm'"),
        ({"heads": 3}, "width 64 is not 3 heads"),
        ({"gap": 2}, "a gap of 2"),
        ({"periods": 1}, "periods must be at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Config(**wrong)


def rated(folder, users, films):
    """A MovieLens folder of made users who rate each film once, of `films` draws."""
    log = make_log(0, "ratings", users, 1, films)
    genres = [f"{i}\tA\t1\tgenre{i % 7}" for i in range(200)]
    people = [f"{u}\t{20 + u % 40}\t{'FM'[u % 2]}\tx\t1" for u in range(users)]
    rows = [
        f"{u}\t{film}\t{1 + (film * u) % 5}\t{t}"
        for u in range(users)
        for t, film in enumerate(dict.fromkeys(log.events_NT[u].tolist()))
    ]
    heads = (
        "item_id\tm\tr\tclass",
        "user_id\tage\tgender\to\tz",
        "user_id\titem_id\trating\ttimestamp",
    )
    for name, head, lines in zip(
        ("item", "user", "inter"), heads, (genres, people, rows), strict=True
    ):
        (folder / f"ml-100k.{name}").write_text("\n".join([head, *lines]) + "\n")
    return folder


def test_real_logs_are_measured_too(tmp_path):
    config = Config(data=str(tmp_path), real_period=4, **SMALL)
    rated(tmp_path, users=70, films=200)
    numbers = measure(config, 0)
    assert "ceiling" not in numbers
    assert numbers["static"] == pytest.approx((numbers["gender"] + numbers["age"]) / 2)
    users = read_users(tmp_path, config.sized(), 0)
    assert len(users.history_NT) == 35
    assert users.context_NT.shape == (35, 8)
    assert (users.context_NT >= 0).all()
    assert not np.array_equal(users.context_NT, read_users(tmp_path, config, 1).context_NT)


def test_too_few_users_are_refused(tmp_path):
    rated(tmp_path, users=20, films=200)
    with pytest.raises(UserError, match="20 users have 32 events or more; 60 are needed"):
        measure(Config(data=str(tmp_path), real_period=2, periods=8), 0)
