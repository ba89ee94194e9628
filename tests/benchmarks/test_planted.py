"""The broken environments are broken: a hand-written exploit is paid, or the defect is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.planted import (
    broken,
    classes,
    exploits_a,
    exploits_b,
    exploits_c,
    exploits_d,
    sound,
    sound2,
    sound3,
)
from benchmarks.planted.playing import reward

pytestmark = pytest.mark.slow  # they prove a benchmark's ground, not the product

CLASSES = {v: {cls.name: cls for cls in classes(v)} for v in "abcd"}
EXPLOITS = {
    "a": exploits_a.EXPLOITS,
    "b": exploits_b.EXPLOITS,
    "c": exploits_c.EXPLOITS,
    "d": exploits_d.EXPLOITS,
}
SHOWN = {
    "a": exploits_a.DEMONSTRATIONS,
    "b": exploits_b.DEMONSTRATIONS,
    "c": exploits_c.DEMONSTRATIONS,
    "d": exploits_d.DEMONSTRATIONS,
}
# Where the reference itself is the defect, or the verdict on it is.
UNPAID = ("wrong-reference", "oracle-missing", "wrong-type", "clock", "call-order")


def of_all(found):
    return [(v, name) for v in "abcd" for name in found[v]]


def test_each_incident_stands_once_in_each_folder():
    kinds = {v: [cls.kind for cls in found.values()] for v, found in CLASSES.items()}
    assert len(kinds["a"]) == len(set(kinds["a"])) == 60
    assert sorted(kinds["a"]) == sorted(kinds["b"]) == sorted(kinds["c"]) == sorted(kinds["d"])


def test_names_are_unique_over_all_and_targets_exist():
    found = [broken("a"), broken("b"), broken("c"), broken("d"), sound(), sound2(), sound3()]
    names = [name for targets in found for name in targets]
    assert len(names) == len(set(names)) == 320
    for target in (t for targets in found for t in targets.values()):
        path, _, cls = target.rpartition(":")
        assert f"class {cls}(" in Path(path).read_text()


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="not 'a', 'b', 'c', 'd' or 'e'"):
        broken("f")


@pytest.mark.parametrize("variant", "abcd")
def test_each_has_one_proof_and_says_what_it_is(variant):
    proofs = [*EXPLOITS[variant], *SHOWN[variant]]
    assert sorted(proofs) == sorted(CLASSES[variant])
    for cls in CLASSES[variant].values():
        assert len(cls.incident) > 20
        assert len(cls.hole) > 20
        assert cls.__doc__


@pytest.mark.parametrize(("variant", "name"), of_all(EXPLOITS))
def test_the_exploit_is_paid(variant, name, made):
    env, exploit = made(CLASSES[variant][name]), EXPLOITS[variant][name]
    count = min(6 if env.tier == "jail" else 60, env.count("test"))
    total = 0.0
    for i in range(count):
        task = env.task("test", i)
        total += reward(env, task, exploit.script(replace(task, hidden={})))
    assert total / count >= exploit.pays - 1e-9
    assert exploit.pays > env.chance


@pytest.mark.parametrize(("variant", "name"), of_all(SHOWN))
def test_the_defect_shows(variant, name):
    assert SHOWN[variant][name](CLASSES[variant][name])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("variant", "name"),
    [(v, n) for v, n in of_all(CLASSES) if CLASSES[v][n].kind not in UNPAID],
)
def test_the_reference_is_paid_where_it_is_not_the_defect(variant, name, split, made):
    env = made(CLASSES[variant][name])
    for i in range(min(10, env.count(split))):
        task = env.task(split, i)
        assert reward(env, task, env.oracle(task)["agent"]) >= 1.0
