"""The revert rule both ways on models that have learned something, and soups as stages of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from soup_kit import keep, teach, tiny
from tiny_run import digests, finish, killed, puna, run, write_recipe

from puna.core.errors import UserError
from puna.core.files import sha256_file
from puna.core.recipe import plan, read_recipe
from puna.core.stage import Machine, StageContext, StageError
from puna.core.stats import Difference, paired_difference
from puna.models import load
from puna.run import resolve
from puna.soup import stage
from puna.soup.console import make_soup
from puna.soup.stage import Config, reverts
from puna.text.tokenizer import Tokenizer

AGREE = """
from puna import Problem, SingleTurn

class Agree(SingleTurn):
    name = "agree"

    def make(self, rng):
        return Problem(f"{rng.integers(10000)}?", "yes")

    def score(self, answer, problem):
        if answer.strip() == "boom":
            raise RuntimeError
        return float(answer.strip() == "yes")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Stages `good`, `other` (as good, trained on from other weights of it) and `noisy`."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    (root / "agree.py").write_text(AGREE)
    tokenizer = Tokenizer.train(["0123456789? yes no"] * 3, 290)
    model = tiny(tokenizer, 0)
    rows = [(f"{n}?", "yes") for n in (3, 17, 2048, 999, 5150)]
    teach(model, tokenizer, rows, 60)
    keep(model, tokenizer, root / "good")
    teach(model, tokenizer, rows, 5)
    keep(model, tokenizer, root / "other")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    keep(model, tokenizer, root / "noisy")
    return root


def cooked(place: Path, tmp_path: Path, *names: str, **settings):
    parents = {n: place / n for n in names}
    ctx = StageContext("soup", tmp_path / "soup", 0, Machine(), parents)
    ctx.dir.mkdir()
    settings = {"env": str(place / "agree.py"), "eval_tasks": 30, "max_tokens": 4} | settings
    return stage.run(ctx, Config(**settings)), ctx.dir / "model"


def weights(directory: Path):
    return load_file(directory / "model.safetensors")


def test_a_worse_soup_gives_way_to_the_best_member(place, tmp_path):
    found, model = cooked(place, tmp_path, "noisy", "good")
    scores = [m["score"]["mean"] for m in found["members"]]
    assert scores == [0.0, 1.0]
    assert found["soup"]["mean"] < 0.5
    assert found["difference"]["high"] < 0
    assert not found["kept"]
    assert (found["model"], found["best_member"]) == ("good", "good")
    own = place / "good" / "model" / "model.safetensors"
    assert sha256_file(model / own.name) == sha256_file(own)
    assert json.loads((model / "soup.json").read_text())["members"] == [str(own.parent)]
    assert [p.name for p in model.parent.iterdir()] == ["model"]


def test_a_soup_that_is_not_worse_is_kept(place, tmp_path):
    found, model = cooked(place, tmp_path, "good", "other", weights=(1.0, 3.0))
    assert found["kept"]
    assert found["model"] == "soup"
    assert found["soup"]["mean"] == 1.0
    assert found["difference"]["mean"] == 0.0
    assert found["difference"]["low"] < 0 < found["difference"]["high"]
    assert [(m["stage"], m["weight"]) for m in found["members"]] == [
        ("good", 0.25),
        ("other", 0.75),
    ]
    assert {m["score"]["n_tasks"] for m in found["members"]} == {30}
    a, b, mine = (weights(d) for d in (place / "good/model", place / "other/model", model))
    for name, value in mine.items():
        torch.testing.assert_close(value, (a[name] + 3 * b[name]) / 4)
    assert not all(torch.equal(mine[n], a[n]) for n in mine)


def test_without_an_environment_it_is_kept_and_says_so(place, tmp_path):
    found, model = cooked(place, tmp_path, "noisy", "good", env=None)
    assert found["kept"]
    assert not found["measured"]
    assert "score" not in found["members"][0]
    assert load(model)[0].state_dict()["embed"].isfinite().all()


@pytest.mark.parametrize(
    ("soup", "best", "back"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0], True),
        ([1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], False),  # lower, but not surely
        ([1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0], False),
    ],
)
def test_the_rule_by_hand(soup, best, back):
    """Eight tasks. 7/8 below: t(7) = 2.3646, sd 0.3536, half 0.2956, so high = -0.579."""
    a, b = ({str(i): float(v) for i, v in enumerate(x)} for x in (soup, best))
    found = paired_difference(a, b)
    assert reverts(found) is back
    if back:
        assert found.high == pytest.approx(-0.875 + 0.2956, abs=1e-3)
    assert not reverts(Difference(-0.1, -0.2, 0.0, 9, 0.05, 0.1))


def test_nothing_scored_is_no_score_of_zero(place, tmp_path):
    env = tmp_path / "broken.py"
    text = AGREE.replace('answer.strip() == "boom"', "True").replace("agree", "broken")
    env.write_text(text.replace("class Agree", "class Broken"))
    with pytest.raises(StageError, match="no task of broken was scored"):
        cooked(place, tmp_path, "good", "other", env=str(env))
    assert not list((tmp_path / "soup").iterdir())


def test_one_member_is_no_soup(place, tmp_path):
    with pytest.raises(UserError, match="a soup of 1 model"):
        cooked(place, tmp_path, "good")


@pytest.mark.parametrize("values", [(1.0, -1.0), (0.0, 0.0)])
def test_weights_without_a_sum_are_refused_with_the_recipe(values):
    with pytest.raises(ValueError, match="sum to 0"):
        Config(weights=values)


def test_the_command_keeps_and_reverts(place, tmp_path):
    good, other, noisy = (place / n for n in ("good", "other", "noisy"))
    flags = ("--env", place / "agree.py", "-n", "20", "--max-tokens", "4")
    done = puna("soup", good, noisy / "model", "-o", tmp_path / "one", *flags)
    assert done.code == 0, done.err
    assert f"reverted: a copy of good is in {tmp_path / 'one'}" in done.out
    assert "  0.500 of good: 1.000 [" in done.out
    assert "over 20 tasks" in done.out
    done = puna("soup", good, other, "-o", tmp_path / "two", "--weights", "1,3", *flags)
    assert done.code == 0, done.err
    assert f"kept: the soup is in {tmp_path / 'two'}" in done.out
    done = puna("soup", tmp_path / "two", good, "-o", tmp_path / "three")
    assert done.code == 0, done.err
    assert "not measured" in done.out
    assert puna("eval", tmp_path / "three", "--env", place / "agree.py", "-n", "5").code == 0
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"one", "two", "three"}


def test_a_member_may_be_given_twice(place, tmp_path):
    good, out = place / "good", tmp_path / "soup"
    found = make_soup([good, good, place / "other"], out)
    assert [m["stage"] for m in found["members"]] == ["good", str(good), "other"]
    assert found["notes"] == [f"{good / 'model'} is given 2 times: its share counts each time"]


def test_mistakes_of_the_command_are_one_line(place, tmp_path):
    good, other = place / "good", place / "other"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    out = tmp_path / "soup"
    for args, said in (
        ([good, "-o", out], "a soup of 1 model"),
        ([good, other], "--out"),
        ([good, other, "-o", out, "--weights", "1,x"], "--weights 1,x: not numbers"),
        ([good, other, "-o", out, "--weights", "1"], "1 weights for 2 models"),
        ([good, other, "-o", out, "--weights", "1,nan"], "give finite numbers"),
        ([good, tmp_path / "no", "-o", out], "no run or model at"),
        ([good, other, "-o", good / "model"], "is, or holds, the member"),
        ([good, other, "-o", tmp_path / "mine"], "is no soup"),
        ([good, other, "-o", tmp_path / "mine", "--env", "arithmetic"], "is no soup"),
        ([good, other, "-o", out, "-n", "0", "--env", "arithmetic"], "n is 0"),
        ([good, other, "-o", out, "--env", "arithmatic"], "did you mean 'arithmetic'"),
    ):
        assert said in puna("soup", *args).error, args
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


SOUP = """
[[stage]]
id = "soup"
kind = "soup"
from = ["sft", "rl"]
weights = [1, 3]
env = "{env}"
eval_tasks = 6
max_tokens = 4

[[stage]]
id = "last"
kind = "eval"
from = ["rl", "soup"]
envs = ["arithmetic"]
n = 6
max_tokens = 4
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A finished run, and its recipe with a soup of its stages behind."""
    root = tmp_path_factory.mktemp("grown")
    recipe = write_recipe(root / "recipe")
    finish(recipe, root / "run")
    longer = root / "longer.toml"
    longer.write_text(recipe.read_text() + SOUP.format(env=root / "recipe" / "brief.py"))
    return root / "run", longer


def test_a_soup_in_a_run_resumes_exactly(grown, tmp_path):
    before, recipe = grown
    whole, broken = (Path(shutil.copytree(before, tmp_path / n)) for n in ("whole", "broken"))
    wanted = finish(recipe, whole)
    for point in ("soup.tensor:3", "soup.renamed", "soup.served"):
        killed(recipe, broken, point, "machine.jobs=1")
    assert finish(recipe, broken) == wanted
    record = json.loads((broken / "soup" / "stage.json").read_text())
    assert record["weights"] == wanted["soup"] == digests(whole)["soup"]
    assert list(record["parents"]) == ["sft", "rl"]
    assert [p for p in (broken / "soup").iterdir() if p.name.startswith(".")] == []
    assert (broken / "soup" / "model" / "tokenizer.json").exists()
    assert "soup" in (broken / "report.html").read_text()
    score = json.loads((broken / "last" / "stage.json").read_text())["result"]["scores"]
    assert [s["stage"] for s in score] == ["rl", "soup"]


def test_a_search_is_told_in_the_report(grown, tmp_path):
    before, recipe = grown
    there = Path(shutil.copytree(before, tmp_path / "run"))
    finish(recipe, there, "soup.method=greedy", "soup.weights=[]")
    found = json.loads((there / "soup" / "stage.json").read_text())["result"]
    assert found["method"] == "greedy"
    assert [s["added"] for s in found["search"]["steps"]] in (["sft", "rl"], ["rl", "sft"])
    assert found["tasks"] == 3  # the other three chose
    page = (there / "report.html").read_text()
    assert "How soups were chosen" in page
    assert "loss barrier" in page


def test_matrix_and_rounds(grown):
    _, recipe = grown
    stages = {s.id: s for s in plan(read_recipe(recipe, ["soup.rounds=2"]))}
    assert stages["soup.1"].parents == ("sft", "rl")
    assert stages["soup.2"].parents == ("soup.1", "rl")
    found = plan(read_recipe(recipe, ["soup.matrix.weights=[[1, 1], [1, 2]]"]))
    assert [s.settings["weights"] for s in found if s.base == "soup"] == [[1, 1], [1, 2]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("soup.from=['rl']", "a soup of 1 stages"),
        ("soup.from=['rl', 'eval']", "an eval stage without a model"),
        ("soup.weights=[1]", "1 weights for 2 stages"),
        ("soup.weights=[1, -1]", "sum to 0"),
        ("soup.env=arithmatic", "did you mean 'arithmetic'"),
        ("soup.tasks=3", "unknown key 'tasks'"),
    ],
)
def test_mistakes_in_a_recipe_are_found_before_anything_runs(grown, tmp_path, change, said):
    _, recipe = grown
    assert said in run(recipe, tmp_path / "run", change).error
    if "arithmatic" not in change:
        with pytest.raises(UserError):
            resolve(read_recipe(recipe, [change]))
