"""Greedy soup and SoCE on models that differ in what they can: chosen on one half, told on both."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from soup_kit import keep, teach, tiny
from tiny_run import puna

from puna.core.errors import UserError
from puna.core.progress import Progress
from puna.core.stage import Machine, StageContext
from puna.gym.registry import load_environment
from puna.models import load, lora
from puna.report.soups import write_soup
from puna.soup import stage
from puna.soup.console import make_soup
from puna.soup.search import Trials, barriers, told
from puna.soup.stage import Config, Plan
from puna.soup.taste import Taste, category
from puna.text.tokenizer import Tokenizer

KINDS = """
from puna import Problem, SingleTurn

RIGHT = {"a": "yes", "b": "no"}

class Kinds(SingleTurn):
    name = "kinds"

    def make(self, rng):
        kind = "ab"[rng.integers(2)]
        return Problem(f"{kind}{rng.integers(10000)}?", RIGHT[kind], {"kind": kind, "odd": "no"})

    def score(self, answer, problem):
        return float(answer.strip() == problem.answer)
"""
TASKS = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Of one base: `yes` and `no` know one kind, `both` two, `none` nothing; `far` is another."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("kinds")
    (root / "kinds.py").write_text(KINDS)
    tokenizer = Tokenizer.train(["0123456789?ab yes no"] * 3, 292)
    numbers = (3, 17, 2048, 999, 5150, 411)
    rows = {k: [(f"{k}{n}?", "yes" if k == "a" else "no") for n in numbers] for k in "ab"}
    mixed = [row for pair in zip(*rows.values(), strict=True) for row in pair]
    for name, seed, lessons, steps in (
        ("yes", 0, rows["a"], 40), ("no", 0, rows["b"], 40), ("both", 0, mixed, 160),
        ("none", 0, mixed, 0), ("far", 1, mixed, 160),
    ):  # fmt: skip
        model = tiny(tokenizer, seed)
        teach(model, tokenizer, lessons, steps)
        keep(model, tokenizer, root / name)
    return root


def cooked(place: Path, tmp_path: Path, *names: str, **settings):
    parents = {n: place / n for n in names}
    ctx = StageContext("soup", tmp_path / "soup", 0, Machine(), parents)
    ctx.dir.mkdir()
    settings = {"env": str(place / "kinds.py"), "eval_tasks": TASKS, "max_tokens": 5} | settings
    return stage.run(ctx, Config(**settings)), ctx.dir / "model"


def taste_of(place: Path) -> Taste:
    return Taste(load_environment(str(place / "kinds.py")), TASKS, 5, Machine(), 0)


def test_soce_end_to_end(place, tmp_path):
    found, model = cooked(place, tmp_path, "yes", "no", "none", "both", method="soce", tau=1.0)
    search = found["search"]
    scores = dict(zip(search["scores"]["models"], search["scores"]["values"], strict=True))
    assert search["correlations"]["categories"] == ["a", "b"]
    assert search["correlations"]["pool"] == ["yes", "no", "none", "both"]
    assert scores["yes"] == [1.0, 0.0]
    assert scores["no"] == [0.0, 1.0]
    assert scores["none"] == [0.0, 0.0]
    experts = search["experts"]
    for i, kind in enumerate("ab"):
        assert scores[experts[kind]][i] == max(row[i] for row in scores.values())
    chosen = [n for n in scores if n in experts.values()]
    weights = {m["stage"]: m["weight"] for m in found["members"]}
    assert {n for n, w in weights.items() if w} == set(chosen)
    assert sum(weights.values()) == pytest.approx(1)
    assert len(search["tried"]) == (9 if len(chosen) == 2 else 1)
    assert search["dev"] == max(t["score"] for t in search["tried"])
    assert search["optimism"] == pytest.approx(search["dev"] - search["test"])
    assert search["members"]["both"]["dev"] == sum(scores["both"]) / 2
    assert found["tasks"] == TASKS / 2
    assert found["members"][0]["score"]["n_tasks"] == TASKS / 2
    assert [b["members"] for b in search["barriers"]] == [chosen][: len(chosen) - 1]
    json.dumps(found)
    assert [p.name for p in model.parent.iterdir()] == ["model"]
    files = {n: load_file(place / n / "model/model.safetensors") for n in chosen}
    for name, value in load_file(model / "model.safetensors").items():
        if found["kept"]:
            wanted = sum(weights[n] * files[n][name] for n in chosen)
            torch.testing.assert_close(value, wanted)


def test_the_halves_share_no_task_and_the_search_never_sees_the_second(place):
    taste = taste_of(place)
    dev, test = taste.half("dev"), taste.half("test")
    assert not set(dev.span) & set(test.span)
    assert sorted([*dev.span, *test.span]) == list(taste.span)
    played = {
        p: set(taste.half(p)(place / "yes/model", p, Progress()).values) for p in ("dev", "test")
    }
    names = {f"kinds/test/{i}" for i in taste.span}
    assert played["dev"] | played["test"] == names
    assert not played["dev"] & played["test"]


def test_greedy_keeps_what_does_no_harm(place, tmp_path):
    found, _ = cooked(place, tmp_path, "none", "both", "yes", method="greedy")
    steps = found["search"]["steps"]
    assert steps[0]["added"] == "both"
    assert {s["added"] for s in steps} == {"none", "both", "yes"}
    best = steps[0]["score"]
    for step in steps[1:]:
        assert step["kept"] == (step["score"] >= best)
        best = step["score"] if step["kept"] else best
    kept = [s["added"] for s in steps if s["kept"]]
    assert {m["stage"]: m["weight"] for m in found["members"]} == {
        n: pytest.approx(1 / len(kept) if n in kept else 0) for n in ("none", "both", "yes")
    }
    assert found["search"]["dev"] == best


def test_the_best_member_alone(place, tmp_path):
    found, model = cooked(place, tmp_path, "none", "both", "yes", method="best")
    assert [m["weight"] for m in found["members"]] == [0, 1, 0]
    search = found["search"]
    assert search["dev"] == max(m["dev"] for m in search["members"].values())
    assert search["test"] == search["members"]["both"]["test"]
    assert found["difference"]["mean"] == 0
    both = load_file(place / "both/model/model.safetensors")
    mine = load_file(model / "model.safetensors")
    assert all(torch.equal(mine[name], both[name]) for name in both)


@pytest.mark.parametrize("method", ["experts", "random"])
def test_a_control_of_soce_on_categories_of_two_tags(place, tmp_path, method):
    names = ("yes", "no", "none", "both")
    found, _ = cooked(place, tmp_path, *names, method=method, tau=1.0, by="kind+odd")
    search = found["search"]
    assert search["correlations"]["categories"] == ["a no", "b no"]
    taken = [m["stage"] for m in found["members"] if m["weight"]]
    experts = {n for n in names if n in search["experts"].values()}
    assert len(taken) == len(experts)
    if method == "random":
        assert taken == search["drawn"]
        assert len(search["tried"]) == (9 if len(taken) == 2 else 1)
    else:
        assert set(taken) == experts
        assert len({m["weight"] for m in found["members"] if m["weight"]}) == 1


def test_a_study_keeps_what_is_worse(place, tmp_path):
    """Two initialisations, each of which knows the lesson: their average is measured and stays."""
    found, _ = cooked(place, tmp_path, "both", "far", eval_tasks=60)
    assert not found["kept"]
    shutil.rmtree(tmp_path / "soup")
    study, model = cooked(place, tmp_path, "both", "far", eval_tasks=60, revert=False)
    assert study["soup"] == found["soup"]
    assert study["difference"]["high"] < 0
    assert study["kept"]
    assert study["model"] == "soup"
    one, two = (load_file(place / n / "model/model.safetensors") for n in ("both", "far"))
    for name, value in load_file(model / "model.safetensors").items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2)


def test_a_member_that_is_not_finite_is_refused_by_name(place, tmp_path):
    spoilt = Path(shutil.copytree(place / "no", tmp_path / "spoilt"))
    file = spoilt / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    members = {n: place / n / "model" for n in ("yes", "both")} | {"spoilt": spoilt / "model"}
    with pytest.raises(UserError, match=r"spoilt/model.*model\.norm\.weight"):
        stage.cook(members, Plan("greedy"), tmp_path / "soup", taste_of(place), Progress())
    assert not (tmp_path / "soup").exists()


def test_scores_from_a_file_choose_and_equal_shares_go_unmeasured(place, tmp_path):
    table = tmp_path / "scores.csv"
    rows = [
        ("yes", 0.9, 0.1),
        ("no", 0.2, 0.8),
        ("x", 0.5, 0.3),
        ("y", 0.4, 0.9),
        ("both", 0.3, 0.3),
    ]
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([("model", "a", "b"), *rows])
    found, _ = cooked(
        place, tmp_path, "both", "yes", "no", method="soce", scores=table, tau=1.0, env=None
    )
    assert not found["measured"]
    assert found["search"]["experts"] == {"a": "yes", "b": "no"}
    assert len(found["search"]["correlations"]["pool"]) == 5
    assert [m["weight"] for m in found["members"]] == [0.0, 0.5, 0.5]
    shutil.rmtree(tmp_path / "soup")
    with pytest.raises(UserError, match="the scores have no model 'far'"):
        cooked(place, tmp_path, "both", "far", method="soce", scores=table, env=None)


def test_adapters_are_members_like_any_other(place, tmp_path):
    """An adapter of nothing scores as its base, and its soup with the base is the base."""
    model, _ = load(place / "both/model", torch.float32)
    lora.attach(model, lora.LoraConfig(2, 4.0, ("q_proj", "v_proj")), 0)
    lora.save_adapter(model, tmp_path / "mine" / "adapter", str(place / "both/model"))
    members = {"both": place / "both/model", "mine": tmp_path / "mine/adapter"}
    found = stage.cook(members, Plan("greedy"), tmp_path / "soup", taste_of(place), Progress())
    scores = found["search"]["members"]
    assert scores["mine"] == scores["both"]
    assert scores["both"]["dev"] > 0.4
    assert [m["weight"] for m in found["members"]] == [0.5, 0.5]
    a, b = (load_file(d / "model.safetensors") for d in (members["both"], tmp_path / "soup"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_barrier_by_hand():
    """L = (share of p)^2: at the ends 1 and 0, at the quarters 1/16, 1/4, 9/16; at most -3/16."""

    class Parabola:
        def loss(self, weights):
            return weights.get("p", 0.0) ** 2

    (found,) = barriers(["p", "q"], Parabola())  # type: ignore[arg-type]
    assert found == {"members": ["p", "q"], "barrier": pytest.approx(1 / 16 - 1 / 4)}


def test_members_of_other_initialisations_are_behind_a_barrier(place, tmp_path):
    """The same lesson from another start: each alone knows it, their average does not."""
    members = {n: place / n / "model" for n in ("both", "yes", "far")}
    tried = Trials(members, tmp_path / "mix", taste_of(place), Progress(), "soup")
    assert tried.loss({"both": 1.0}) < 0.1
    assert tried.loss({"far": 1.0}) < 0.1
    assert tried.loss({"yes": 1.0}) > 1.0
    ((pair),) = barriers(["both", "far"], tried)
    assert pair["barrier"] > 0.5
    assert not (tmp_path / "mix").exists()


def test_the_page_shows_what_was_found(place, tmp_path):
    found, _ = cooked(place, tmp_path, "yes", "no", "none", "both", method="soce", tau=1.0)
    found["notes"] = [*found["notes"], "a <b> note"]
    text = write_soup(found, tmp_path / "soup.html").read_text()
    rho = found["search"]["correlations"]["rho"][0][1]
    for said in (f"{rho:+.2f}", "<svg", "optimism", "a &lt;b&gt; note", "weightings were tried"):
        assert said in text, said
    weak = ", ".join(f"{2 * (abs(rho) < t)} at {t}" for t in (0.2, 0.3, 0.4))
    assert f"weakly correlated at 1; of 2 categories it would be {weak}." in text
    assert "url(" not in text.split("<body>")[0]
    for broken in ({}, {"search": {"correlations": {"categories": ["a", "b"], "rho": [[1]]}}}):
        write_soup(broken, tmp_path / "broken.html")


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (("yes", "no", "both"), {"method": "soce"}, "correlations over 3 models say nothing"),
        (("yes", "no", "both"), {"method": "soce", "env": None}, "chooses by what models score"),
        (("yes", "no"), {"method": "greedy", "env": None}, "chooses by what models score"),
        (("yes", "no"), {"method": "greedy", "eval_tasks": 1}, "two halves"),
        (("yes", "no"), {"method": "greedy", "by": "kin"}, "did you mean 'kind'"),
        (("yes", "no"), {"method": "greedy", "by": "kind+od"}, "did you mean 'odd'"),
        (("yes", "no", "both"), {"method": "random"}, "correlations over 3 models say nothing"),
        (("yes", "no"), {"method": "best", "env": None}, "chooses by what models score"),
    ],
)
def test_what_a_method_lacks_is_said_before_anything_is_played(
    place, tmp_path, names, settings, said
):
    with pytest.raises(UserError, match=said):
        cooked(place, tmp_path, *names, **settings)
    assert not list((tmp_path / "soup").iterdir())


def test_an_environment_without_tags_has_no_categories(place, tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text(KINDS.replace(', {"kind": kind, "odd": "no"}', "").replace("kinds", "plain"))
    four = ("yes", "no", "none", "both")
    with pytest.raises(UserError, match="plain has no tags"):
        cooked(place, tmp_path, *four, method="soce", env=str(plain))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "sauce"}, "did you mean 'soce'"),
        ({"method": "greedy", "weights": (1.0, 2.0)}, "takes no weights"),
        ({"method": "weighted"}, "needs weights"),
        ({"method": "soce", "tau": 0.0}, "above 0"),
        ({"method": "soce", "tau": float("nan")}, "above 0"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    for cls in (Plan, Config):
        with pytest.raises(ValueError, match=said):
            cls(**settings)
    with pytest.raises(ValueError, match="by the methods soce, experts, random alone"):
        Config(scores=Path("x.csv"))


def test_names_for_people():
    assert told({"a": 1.0, "b": 3.0}) == "0.25 a + 0.75 b"
    assert told({"a": 1.0}) == "a"
    assert category({"kind": "a", "odd": "no"}) == "a"
    assert category({"kind": "a", "odd": "no"}, "odd") == "no"
    assert category({"kind": "a", "odd": "no"}, "odd+kind") == "no a"
    assert category({}) == "all"


def test_the_command(place, tmp_path):
    names = [place / n for n in ("none", "both", "yes")]
    flags = ("--env", place / "kinds.py", "-n", "12", "--max-tokens", "5", "--method", "greedy")
    page = tmp_path / "soup.html"
    done = puna("soup", *names, "-o", tmp_path / "soup", *flags, "--report", page)
    assert done.code == 0, done.err
    assert "on the dev half" in done.out
    assert "optimism" in done.out
    assert "Soup of none, both, yes" in page.read_text()
    for args, said in (
        (["--method", "sauce"], "did you mean 'soce'"),
        (["--method", "soce"], "name an environment"),
        (["--scores", "no.csv", "--method", "soce"], "no.csv cannot be read"),
        (["--weights", "1,2,3", "--method", "soce"], "takes no weights"),
    ):
        assert said in puna("soup", *names, "-o", tmp_path / "x", *args).error, args
    assert make_soup(names, tmp_path / "y")["method"] == "uniform"
