"""Recipes: a TOML graph of stages, expanded over `rounds` and `matrix` into the plan of a run.

`plan(read_recipe("quickstart"), ["rl.steps=50"])` -> a list of `Planned` stages in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.core.claims import Claim, claims_of
from puna.core.config import parse_set, read_toml
from puna.core.errors import UserError, nearest
from puna.core.matrix import STAGE, Variants, array, combinations, whole

_TOP = {"name", "seed", "machine", "stage", "title", "fraction", "claim"}
# A name that stands for a table, and the key that the name has in it.
_NAMED = {"env": "id", "model": "preset"}
# Other things than stages have these places in a run's directory.
_RESERVED = ("evals", "tensorboard")


@dataclass(frozen=True)
class Planned:
    """One stage to run: its directory name, its parents' directory names, its settings.

    `base` is the id in the recipe, `labels` the matrix values that tell variants apart.
    """

    id: str
    base: str
    kind: str
    parents: tuple[str, ...]
    settings: Mapping[str, Any]
    seed: int
    labels: Mapping[str, Any] = field(default_factory=dict)
    round: int = 1


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe; `stages` are its tables as written, after `--set`.

    One in `fraction` combinations of its matrices is run. `claims` are what it is run to show.
    """

    name: str
    title: str
    seed: int
    machine: Mapping[str, Any]
    stages: tuple[Mapping[str, Any], ...]
    fraction: int = 1
    claims: tuple[Claim, ...] = ()


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with Puna."""
    here = Path(__file__).parent.parent
    for folder in (here / "recipes", here.parent / "recipes"):
        if folder.is_dir():
            return {p.stem: p for p in sorted(folder.glob("*.toml"))}
    return {}


def find_recipe(name: str) -> Path:
    """A file, or the name of a shipped recipe. Raises UserError where neither exists."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    raise UserError(f"no recipe '{name}'", nearest(path.stem, shipped))


def read_recipe(path: Path, sets: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; `sets` are `stage.key=value` (or `seed=1`) applied on top."""
    table = read_toml(path)
    for key in table:
        if key not in _TOP:
            raise UserError(f"{path}: unknown key '{key}'", nearest(key, _TOP))
    stages = [dict(s) for s in _stage_tables(table.get("stage", []), path)]
    for text in sets:
        _apply(table, stages, text)
    _stage_tables(stages, path)
    for key, value in table.items():
        _plain(value if key != "stage" else {s["id"]: s for s in stages}, key, path)
    ids = [s["id"] for s in stages]
    for stage in stages:
        if ids.count(stage["id"]) > 1:
            raise UserError(f"{path}: two stages have the id '{stage['id']}'", "rename one")
    name = table.get("name", path.stem)
    seed = table.get("seed", 0)
    title, machine = table.get("title", ""), table.get("machine", {})
    if not whole(seed) or not isinstance(name, str) or not isinstance(title, str):
        raise UserError(f"{path}: name and title must be text and seed a whole number")
    if not isinstance(machine, Mapping):
        raise UserError(f"{path}: machine is {machine!r}", "write [machine] with threads = ...")
    parts = table.get("fraction", 1)
    if not whole(parts) or parts < 1:
        raise UserError(f"{path}: fraction is {parts!r}", "give a whole number: one in how many")
    claims = claims_of(table.get("claim", []), str(path), f"puna run {name}")
    for claim in claims:
        _look_up(claim, ids, path)
    return Recipe(name, title, seed, machine, tuple(stages), parts, claims)


def _plain(value: Any, where: str, path: Path) -> None:
    """Raises UserError for what a run's records cannot hold: dates and times, nan, infinities."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _plain(inner, key if where == "stage" else f"{where}.{key}", path)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, where, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}: {where} is {value}", "give a finite number")
    elif not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise UserError(f"{path}: {where} is {value} (a {kind})", "write text in quotes")


def _look_up(claim: Claim, ids: Sequence[str], path: Path) -> None:
    """Raises UserError where a claim names no stage, measure and level."""
    for name in (claim.metric, claim.against):
        if isinstance(name, str) and claim.testable:
            stage, *rest = name.split(" / ")
            if len(rest) != 2 or "=" not in rest[1]:
                fix = "write 'stage / measure / key=value'"
                raise UserError(f"{path}: claim '{claim.id}' compares '{name}'", fix)
            if stage not in ids:
                what = f"{path}: claim '{claim.id}' is about '{stage}', which is no stage"
                raise UserError(what, nearest(stage, ids))


def _stage_tables(stages: Any, path: Path) -> list[Mapping[str, Any]]:
    if not isinstance(stages, list) or not stages or not all(isinstance(s, dict) for s in stages):
        raise UserError(f"{path}: no stages", 'add [[stage]] with id = "..." and kind = "..."')
    for number, stage in enumerate(stages, 1):
        for key in ("id", "kind"):
            if not isinstance(stage.get(key), str) or not stage[key]:
                raise UserError(f"{path}: stage {number} has no '{key}'", f'add {key} = "..."')
        if not all(c.isalnum() or c in "-_" for c in stage["id"]):
            raise UserError(
                f"{path}: stage id '{stage['id']}' cannot name a directory", "use letters, - and _"
            )
        if stage["id"] in _RESERVED:
            what = f"{path}: stage id '{stage['id']}' is taken by another directory of a run"
            raise UserError(what, "rename it")
    return stages


def _apply(table: dict[str, Any], stages: list[dict[str, Any]], text: str) -> None:
    keys, value = parse_set(text)
    if len(keys) == 1 or keys[0] == "machine":
        if keys[0] not in ("name", "seed", "machine", "title", "fraction"):
            ids = [s["id"] for s in stages]
            raise UserError(f"--set {text}: unknown key", nearest(keys[0], ["seed", "name", *ids]))
        target: dict[str, Any] = table
    else:
        found = [s for s in stages if s["id"] == keys[0]]
        if not found:
            hint = nearest(keys[0], [s["id"] for s in stages])
            raise UserError(f"--set {text}: no stage '{keys[0]}'", hint)
        target, keys = found[0], keys[1:]
    for key in keys[:-1]:
        inner = target.get(key, {})
        if isinstance(inner, str) and key in _NAMED:
            inner = {_NAMED[key]: inner}
        if not isinstance(inner, dict):
            raise UserError(f"--set {text}: '{key}' is not a table")
        target[key] = dict(inner)
        target = target[key]
    target[keys[-1]] = value


def plan(recipe: Recipe) -> list[Planned]:
    """The stages in order, expanded over matrix values and rounds.

    A stage has one variant for each combination of its own `matrix` and of its parents' variants
    (what shares a label, be it parents or the matrix, is joined on it), of those in the fraction.
    The label `seed` sets the stage's seed, any other the setting of that name, or where its values
    have names the settings of the one named. Raises UserError for an unknown parent, for a stage
    without a variant, for two of one name and for a fraction that confuses main effects.
    """
    variants: Variants = {}
    out: list[Planned] = []
    rows = array(recipe.stages, recipe.fraction)
    for stage in recipe.stages:
        variants[stage["id"]] = []
        for labels, table, chosen in combinations(stage, variants):
            if any(all(labels.get(k, v) == v for k, v in row.items()) for row in rows):
                out += _rounds(table, recipe.seed, labels, chosen)
                variants[stage["id"]].append((labels, out[-1].id))
        if not variants[stage["id"]]:
            raise UserError(
                f"stage '{stage['id']}' has no variant", "its matrix is empty or fits no parent"
            )
    names = [s.id for s in out]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two stages would be called '{name}'", "rename one, or its matrix")
    return out


def needed(stages: Sequence[Planned], only: Sequence[str]) -> list[Planned]:
    """The stages named in `only` (all variants where it is a recipe's id) and what they come from.

    Nothing named means all. Raises UserError for a name that no stage has.
    """
    if not only:
        return list(stages)
    names = {n for stage in stages for n in (stage.id, stage.base)}
    for name in only:
        if name not in names:
            raise UserError(f"no stage '{name}'", nearest(name, names))
    kept: set[str] = set()
    for stage in reversed(stages):
        if stage.id in kept or {stage.id, stage.base} & set(only):
            kept |= {stage.id, *stage.parents}
    return [stage for stage in stages if stage.id in kept]


def _rounds(
    stage: Mapping[str, Any], seed: int, labels: dict[str, Any], parents: list[str]
) -> list[Planned]:
    rounds = stage.get("rounds", 1)
    if not whole(rounds) or rounds < 1:
        raise UserError(f"{stage['id']}.rounds is {rounds!r}", "give a whole number from 1")
    settings = {k: v for k, v in stage.items() if k not in STAGE}
    tail = ",".join(f"{k}={v}" for k, v in labels.items())
    tail = "".join(c if c.isalnum() or c in "-_.,=" else "_" for c in tail)
    name = f"{stage['id']}@{tail}" if tail else stage["id"]
    out: list[Planned] = []
    for number in range(1, rounds + 1):
        mine = name if rounds == 1 else f"{name}.{number}"
        before = (out[-1].id, *parents[1:]) if out else tuple(parents)
        out.append(
            Planned(
                mine,
                stage["id"],
                stage["kind"],
                before,
                settings,
                labels.get("seed", seed),
                labels,
                number,
            )
        )
    return out
