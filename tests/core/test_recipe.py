"""Recipes: expansion over matrix, rounds and parents, and mistakes in one line."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from puna.core.errors import UserError
from puna.core.recipe import (
    Planned,
    find_recipe,
    needed,
    plan,
    read_recipe,
    shipped_recipes,
)
from puna.run import resolve

HEAD = 'name = "t"\nseed = 7\n'


CLAIM = """
[[claim]]
id = 'c'
statement = 's'
source = 'p'
metric = '{}'
against = '{}'
"""


def stage(name: str, kind: str = "sft", more: str = "") -> str:
    return f'[[stage]]\nid = "{name}"\nkind = "{kind}"\n{more}\n'


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def put(text: str, *sets: str) -> Any:
        path = tmp_path / "r.toml"
        path.write_text(text)
        return read_recipe(path, sets)

    return put


def by_id(recipe: Any) -> dict[str, Planned]:
    return {s.id: s for s in plan(recipe)}


def test_a_plain_chain(write: Any) -> None:
    text = HEAD + stage("a", "pretrain") + stage("b", "sft", 'from = "a"\nsteps = 3')
    first, second = plan(write(text))
    assert (first.id, first.parents, first.seed, first.settings) == ("a", (), 7, {})
    assert (second.id, second.parents, second.settings) == ("b", ("a",), {"steps": 3})


def test_a_matrix_multiplies_and_its_labels_are_inherited_and_joined(write: Any) -> None:
    text = HEAD + stage("sft", "sft", "matrix.seed = [0, 1]\nmatrix.lr = [0.1, 0.2]")
    text += stage("rl", "rl", 'from = ["sft"]') + stage("eval", "eval", 'from = ["sft", "rl"]')
    made = by_id(write(text))
    assert list(made)[:4] == [
        "sft@seed=0,lr=0.1", "sft@seed=0,lr=0.2", "sft@seed=1,lr=0.1", "sft@seed=1,lr=0.2",
    ]  # fmt: skip
    assert len(made) == 12
    assert made["sft@seed=1,lr=0.2"].settings == {"lr": 0.2}
    assert made["sft@seed=1,lr=0.2"].seed == 1
    # a child keeps the seed of its variant, but the parent's lr is no setting of the child
    assert made["rl@seed=1,lr=0.2"].settings == {}
    assert made["rl@seed=1,lr=0.2"].seed == 1
    joined = made["eval@seed=0,lr=0.2"]
    assert joined.parents == ("sft@seed=0,lr=0.2", "rl@seed=0,lr=0.2")


def test_only_what_is_named_and_what_it_comes_from(write: Any) -> None:
    text = HEAD + stage("a", "pretrain") + stage("b", "sft", 'from = "a"\nmatrix.seed = [0, 1]')
    text += stage("c", "rl", 'from = ["b"]') + stage("other", "pretrain")
    stages = plan(write(text))

    def kept(*only: str) -> list[str]:
        return [s.id for s in needed(stages, only)]

    assert kept() == [s.id for s in stages]
    assert kept("a") == ["a"]
    assert kept("c@seed=1") == ["a", "b@seed=1", "c@seed=1"]
    assert kept("b", "other") == ["a", "b@seed=0", "b@seed=1", "other"]
    with pytest.raises(UserError, match="no stage 'othre'; did you mean 'other'"):
        kept("othre")


def test_parents_without_a_common_label_are_crossed(write: Any) -> None:
    text = HEAD + stage("a", "sft", "matrix.x = [1, 2]") + stage("b", "sft", "matrix.y = [3]")
    made = by_id(write(text + stage("c", "eval", 'from = ["a", "b"]')))
    assert [made[i].parents for i in made if i.startswith("c")] == [
        ("a@x=1", "b@y=3"),
        ("a@x=2", "b@y=3"),
    ]


def test_a_matrix_that_repeats_a_label_is_joined_on_it(write: Any) -> None:
    text = HEAD + stage("a", "sft", "matrix.seed = [0, 1]")
    made = by_id(write(text + stage("b", "rl", 'from = ["a"]\nmatrix.seed = [0, 1]')))
    assert [(i, made[i].parents) for i in made if i[0] == "b"] == [
        ("b@seed=0", ("a@seed=0",)),
        ("b@seed=1", ("a@seed=1",)),
    ]


NAMED = (
    stage("sft", "sft", "matrix.seed = [0, 1]\nmatrix.size.few.demos = 5\nmatrix.size.all = {}")
    + stage("dpo", "dpo", 'from = ["sft"]')
    + stage("rl", "rl", """pool = { size = 9 }
matrix.order.after.from = ["sft"]
matrix.order.before.from = ["dpo"]
matrix.filter.none = { refills = 0, pool = { samples = 0 } }
matrix.filter.some = { refills = 2 }
matrix.mix.no.pool.cycles = 1
matrix.mix.yes = {}""")
    + stage("last", "dpo", 'from = ["rl"]\nmatrix.order.after = {}')
    + stage("end", "eval", """matrix.order.after.from = ["last"]
matrix.order.before.from = ["rl"]""")
)  # fmt: skip


def test_values_with_names_stand_for_settings_and_parents(write: Any) -> None:
    made = by_id(write(HEAD + NAMED))
    assert len(made) == 4 + 4 + 32 + 16 + 32
    assert made["sft@seed=1,size=few"].settings == {"demos": 5}
    assert made["sft@seed=1,size=all"].settings == {}
    rl = made["rl@seed=1,size=few,order=before,filter=none,mix=no"]
    assert rl.parents == ("dpo@seed=1,size=few",)
    assert rl.settings == {"refills": 0, "pool": {"size": 9, "samples": 0, "cycles": 1}}
    other = made["rl@seed=1,size=few,order=after,filter=some,mix=yes"]
    assert other.parents == ("sft@seed=1,size=few",)
    assert other.settings == {"refills": 2, "pool": {"size": 9}}
    ends = {i: made[i].parents[0].split("@")[0] for i in made if i.startswith("end")}
    assert set(ends.values()) == {"rl", "last"}
    assert all((parent == "last") == ("order=after" in name) for name, parent in ends.items())
    assert {made[i].labels["order"] for i in made if i.startswith("last")} == {"after"}


def test_a_fraction_keeps_each_pair_of_values_and_runs_what_is_shared_once(write: Any) -> None:
    made = by_id(write("fraction = 2\n" + HEAD + NAMED))
    kinds = Counter(s.base for s in made.values())
    assert kinds == {"sft": 4, "dpo": 4, "rl": 16, "last": 8, "end": 16}
    ends = [s.labels for s in made.values() if s.base == "end"]
    axes = ("seed", "size", "order", "filter", "mix")
    for a, b in combinations(axes, 2):
        assert set(Counter((x[a], x[b]) for x in ends).values()) == {4}
    for end in (s for s in made.values() if s.base == "end"):
        assert all(parent in made for parent in end.parents)


def test_rounds_chain_and_the_next_stage_takes_the_last(write: Any) -> None:
    text = HEAD + stage("a") + stage("x")
    text += stage("rl", "rl", 'from = ["a", "x"]\nrounds = 3') + stage("e", "eval", 'from = "rl"')
    made = by_id(write(text))
    assert made["rl.1"].parents == ("a", "x")
    assert made["rl.2"].parents == ("rl.1", "x")
    assert made["rl.3"].parents == ("rl.2", "x")
    assert made["rl.3"].round == 3
    assert made["e"].parents == ("rl.3",)


def test_matrix_values_never_make_paths(write: Any) -> None:
    made = plan(write(HEAD + stage("e", "eval", 'matrix.env = ["./a.py", "arithmetic"]')))
    assert [s.id for s in made] == ["e@env=._a.py", "e@env=arithmetic"]
    assert made[0].settings == {"env": "./a.py"}


def test_set_reaches_stages_tables_and_the_top(write: Any) -> None:
    text = HEAD + stage("rl", "rl", 'env = "arithmetic"\n[stage.inner]\na = 1')
    sets = ("rl.env.terms=3", "rl.steps=5", "rl.inner.b.c=2", "seed=1", "machine.threads=2")
    recipe = write(text, *sets)
    (made,) = plan(recipe)
    assert made.settings["env"] == {"id": "arithmetic", "terms": 3}
    assert made.settings["inner"] == {"a": 1, "b": {"c": 2}}
    assert made.settings["steps"] == 5
    assert (made.seed, recipe.machine) == (1, {"threads": 2})
    inline = HEAD + stage("rl", "rl", "env = {id = 'x', terms = 2}")
    (table,) = plan(write(inline, "rl.env.terms=3"))
    assert table.settings["env"] == {"id": "x", "terms": 3}


@pytest.mark.parametrize(
    ("text", "sets", "expected"),
    [
        (stage("a") + stage("rl", "rl", 'from = ["b"]'), (), "no earlier stage 'b'; known: a"),
        (stage("sft") + stage("rl", "rl", 'from = "stf"'), (), "did you mean 'sft'?"),
        (stage("a", "sft", 'from = ["a"]'), (), "no earlier stage 'a'"),
        (stage("a", "sft", "from = 3"), (), "from is 3"),
        (stage("a", "sft", "from = [1]"), (), r"from is \[1\]"),
        (stage("a") + stage("a"), (), "two stages have the id 'a'"),
        (stage("a/b"), (), "cannot name a directory"),
        ('[[stage]]\nkind = "sft"', (), "stage 1 has no 'id'"),
        ('[[stage]]\nid = "a"', (), "stage 1 has no 'kind'"),
        ("", (), "no stages"),
        ("stage = [1, 2]", (), "no stages"),
        ("stag = 1\n" + stage("a"), (), "unknown key 'stag'; did you mean 'stage'?"),
        (stage("a", "sft", "rounds = 0"), (), "rounds is 0"),
        (stage("a", "sft", "rounds = true"), (), "rounds is True"),
        (stage("a", "sft", "matrix.seed = 3"), (), "must map keys to lists"),
        (stage("a", "sft", 'matrix.seed = ["x"]'), (), "give whole numbers"),
        (stage("a", "sft", "matrix.seed.x = {}"), (), "give whole numbers"),
        (stage("a", "sft", "matrix.x.y = 3"), (), "a.matrix.x.y is 3; give a table of settings"),
        (stage("a", "sft", 'matrix.x.y.kind = "rl"'), (), "a.matrix.x.y sets 'kind'"),
        (stage("a", "sft", 'matrix.x.y.from = ["b"]'), (), "no earlier stage 'b'"),
        ("fraction = 0\n" + stage("a"), (), "fraction is 0; give a whole number"),
        ("fraction = true\n" + stage("a"), (), "fraction is True"),
        ("fraction = 2\n" + stage("a", "sft", "matrix.x=[1, 2]\nmatrix.y=[1, 2]"), (),
         r"would confuse main effects of x \(2\), y \(2\); at most 1 keeps them apart"),
        (stage("a", "sft", "matrix.x=[1, 2]\nmatrix.y=[1, 2]"), ("fraction=2",), "would confuse"),
        (stage("a") + "[[claim]]\nid = 'c'", (), "claim c: 'statement' is missing"),
        (stage("a") + CLAIM.format("b / m / x=1", "a / m / x=2"), (), "'b', which is no stage"),
        (stage("a") + CLAIM.format("a / m / x=1", "a / m"), (), "write 'stage / measure"),
        (stage("a", "sft", "matrix.seed = []"), (), "has no variant"),
        (stage("a", "sft", "matrix.x = [1, 1]"), (), "two stages would be called 'a@x=1'"),
        (stage("a", "sft", "matrix.x=[1]") + stage("b", "sft", 'from="a"\nmatrix.x=[2]'), (),
         "stage 'b' has no variant"),
        ("machine = 3\n" + stage("a"), (), "machine is 3"),
        ("title = 3\n" + stage("a"), (), "title must be text"),
        ("seed = true\n" + stage("a"), (), "seed a whole number"),
        (stage("sft"), ("stf.steps=1",), "no stage 'stf'; did you mean 'sft'?"),
        (stage("sft"), ("sft=1",), "--set sft=1: unknown key"),
        (stage("sft", "sft", "lr = 1"), ("sft.lr.x=1",), "'lr' is not a table"),
        (stage("sft"), ("sft.id=5",), "stage 1 has no 'id'"),
        (stage("sft"), ("sft.id=../x",), "cannot name a directory"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(write: Any, text: str, sets: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        plan(write(text, *sets))
    assert "\n" not in str(caught.value)


def test_claims_are_read_with_the_command_that_judges_them(write: Any) -> None:
    (claim,) = write(HEAD + stage("a") + CLAIM.format("a / m / x=1", "a / m / x=2")).claims
    assert (claim.metric, claim.against, claim.command) == (
        "a / m / x=1",
        "a / m / x=2",
        "puna run t",
    )
    assert claim.least == 5


def test_an_unknown_kind_and_a_wrong_setting_are_one_line(write: Any) -> None:
    with pytest.raises(UserError, match="unknown kind 'sff'; did you mean 'sft'"):
        resolve(write(HEAD + stage("a", "sff")))
    with pytest.raises(UserError, match="eval: unknown key 'env'; did you mean 'envs'"):
        resolve(write(HEAD + stage("eval", "eval", 'env = "arithmetic"')))


def test_recipes_are_found_by_name(tmp_path: Path) -> None:
    for name in shipped_recipes():
        assert plan(read_recipe(find_recipe(name)))
    with pytest.raises(UserError, match="no recipe 'quickstrat'"):
        find_recipe("quickstrat")
