"""The audit passes arithmetic, and finds the fault planted in each of these environments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.gym.audit import Audit, audit, show

GOOD = '''
import numpy as np
from puna.core.outcome import Infra, Scored
from puna.gym.environment import Problem, SingleTurn, say

class Sums(SingleTurn):
    """Adds."""
    name = "sums"
    sizes = {"train": 500, "test": 100}
    def make(self, rng):
        a, b = rng.integers(100, 1000, 2)
        return Problem(f"{a}+{b}=", str(a + b))
    def score(self, answer, problem):
        return float(answer.strip() == problem.answer)
'''


def faulty(tmp_path: Path, extra: str = "", **replaced: str) -> Audit:
    text = GOOD
    for old, new in (change.split(" => ") for change in replaced.values()):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "sums.py"
    path.write_text(text + extra)
    return audit(str(path), n=8)


def failed(found: Audit) -> set[str]:
    return {f.probe for f in found.findings if not f.passed}


def test_arithmetic_passes(capsys: pytest.CaptureFixture[str]) -> None:
    found = audit("arithmetic", n=8, settings={"terms": 3})
    assert found.passed, found.findings
    assert len(found.findings) == 7
    show(found, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["passed"]
    assert data["id"] == found.to_json()["id"] != replace(found, n=9).to_json()["id"]
    show(found)
    assert "passed" in capsys.readouterr().out


def test_the_good_one_passes(tmp_path: Path) -> None:
    assert faulty(tmp_path).passed


SCORE = "float(answer.strip() == problem.answer)"


@pytest.mark.parametrize(
    ("score", "probes"),
    [
        ("float(bool(answer))", {"cheats", "broken answers"}),
        ("1.0", {"idle", "cheats", "broken answers"}),
        ("float(answer == '0' or answer == problem.answer)", {"cheats"}),
        ("float(problem.answer in answer)", {"cheats"}),
        ("0.1 if answer == '' else float(answer == problem.answer)", {"idle"}),
        ("float('reward' in answer or answer == problem.answer)", {"broken answers"}),
        ("float(answer == problem.answer + '!')", {"oracle"}),
        ("float(np.random.random() < 0.5)", {"oracle", "idle", "cheats", "same verdict"}),
        ("{}['x']", {"oracle", "idle", "cheats", "broken answers"}),
        ("float('nan')", {"oracle", "idle", "cheats", "broken answers"}),
    ],
)
def test_a_planted_reward_is_found(tmp_path: Path, score: str, probes: set[str]) -> None:
    found = faulty(tmp_path, score=f"{SCORE} => {score}")
    assert not found.passed
    assert probes <= failed(found), found.findings


def test_an_oracle_that_is_wrong_is_found(tmp_path: Path) -> None:
    wrong = "    def oracle(self, task):\n        return {'agent': say('12')}\n"
    assert failed(faulty(tmp_path, wrong)) == {"oracle"}
    none = "    def oracle(self, task):\n        raise NotImplementedError\n"
    assert "oracle" in failed(faulty(tmp_path, none))


def test_calling_the_task_invalid_is_no_way_out(tmp_path: Path) -> None:
    shrugs = (
        "    def judge(self, episodes, hidden, ctx):\n"
        "        from puna.core.outcome import Invalid\n"
        "        found = super().judge(episodes, hidden, ctx)\n"
        "        bad = {'agent': Invalid('not my fault')}\n"
        "        return [f if f['agent'].success else bad for f in found]\n"
    )
    found = faulty(tmp_path, shrugs)
    assert failed(found) == {"idle", "cheats", "broken answers"}
    assert "not my fault" in str(found.findings)


def test_resources_are_made_once_and_torn_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = (
        "    def setup(self):\n        print('made')\n        return 'db'\n"
        "    def teardown(self, resources):\n        print('torn down', resources)\n"
        "    def start(self, task, resources, ctx):\n        assert resources == 'db'\n"
        "        return super().start(task, resources, ctx)\n"
    )
    assert faulty(tmp_path, counted).passed
    assert capsys.readouterr().out == "made\ntorn down db\n"


def test_a_session_that_breaks_on_hostile_answers_is_found(tmp_path: Path) -> None:
    fragile = (
        "    def start(self, task, resources, ctx):\n"
        "        session = super().start(task, resources, ctx)\n"
        "        old = session.take\n"
        "        def take(turn, message):\n"
        "            assert 'reward' not in message.text\n"
        "            old(turn, message)\n"
        "        session.take = take\n"
        "        return session\n"
    )
    assert failed(faulty(tmp_path, fragile)) == {"broken answers"}


def test_cheats_that_cannot_be_made_are_found(tmp_path: Path) -> None:
    broken = "    def cheats(self, task):\n        return {'x': 1 / 0}\n"
    found = faulty(tmp_path, broken)
    assert failed(found) == {"cheats"}
    assert "ZeroDivisionError" in str(found.findings)
    assert failed(faulty(tmp_path, broken.replace("'x': 1 / 0", ""))) == {"cheats"}


@pytest.mark.parametrize(
    ("draw", "seen"),
    [
        ("np.random.default_rng().integers(100, 1000, 2)", "two calls gave different tasks"),
        ("(hash(str(rng.integers(100, 1000))) % 900, 5)", "another process makes other tasks"),
    ],
)
def test_tasks_that_are_not_deterministic_are_found(tmp_path: Path, draw: str, seen: str) -> None:
    found = faulty(tmp_path, draw=f"rng.integers(100, 1000, 2) => {draw}")
    assert "determinism" in failed(found)
    assert seen in [f.seen for f in found.findings]


def test_an_environment_that_prints_is_not_taken_for_random(tmp_path: Path) -> None:
    assert faulty(tmp_path, "print('hello')\n").passed


def test_overlap_of_train_and_test_is_found(tmp_path: Path) -> None:
    overlap = "    def task(self, split, index):\n        return super().task('train', index)\n"
    found = faulty(tmp_path, overlap)
    assert failed(found) == {"train/test overlap"}
    assert "common, e.g." in found.findings[-1].seen


def test_a_declared_chance_is_held_to(tmp_path: Path) -> None:
    pays = "0.3 if answer == 'yes' else float(answer == problem.answer)"
    free = f"{SCORE} => {pays}"
    assert failed(faulty(tmp_path, score=free)) == {"cheats"}
    assert faulty(tmp_path, "    chance = 0.3\n", score=free).passed
    assert failed(faulty(tmp_path, "    chance = 0.01\n", score=free)) == {"cheats"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit"),
        ("x = 1", "must define one Environment class, found: none"),
        (GOOD + "class B(Sums): pass", "found: Sums, B"),
        (GOOD.replace('name = "sums"', ""), "has no name"),
        (GOOD.replace("500", "0").replace("100}", "0}"), "sums has no tasks"),
        (GOOD.replace("return Problem", "raise KeyError('x')\n        return Problem"),
         "sums cannot make task train/0: KeyError"),
        (GOOD + "    def belongs(self, prompt):\n        return 'train'\n",
         "1,000 draws gave no problem of split test"),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "e.py").write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        audit(str(tmp_path / "e.py"), n=2)
    assert "\n" not in str(caught.value)


def test_at_least_one_task() -> None:
    with pytest.raises(UserError, match="n is 0"):
        audit("arithmetic", n=0)
