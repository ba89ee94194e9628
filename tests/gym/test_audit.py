"""The audit passes arithmetic, and finds the fault planted in each of these environments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sums_env import GOOD

from puna.core.errors import UserError
from puna.gym.audit import Audit, audit, show
from puna.gym.audit.probes import BUSY, OTHER_PROCESS, PROBES, PROCESS


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
    assert [f.probe for f in found.findings] == [
        *(p.name for p in PROBES),
        BUSY,
        OTHER_PROCESS,
        PROCESS,
    ]
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
        ("float(bool(answer))", {"constant answer", "own cheats", "broken answers", "echo"}),
        ("1.0", {"idle", "empty answer", "own cheats", "broken answers", "over-long"}),
        ("float(answer == '0' or answer == problem.answer)", {"constant answer"}),
        ("float(problem.answer in answer)", {"many answers"}),
        ("float(answer.split()[:1] == [problem.answer])", set()),
        ("0.1 if answer == '' else float(answer == problem.answer)", {"idle", "empty answer"}),
        ("float('reward' in answer or answer == problem.answer)", {"forged verdict"}),
        ("float('passed' in answer or answer == problem.answer)", {"forged verdict"}),
        ("0. if abs(float(answer) - int(problem.answer)) > .5 else 1.", {"wrong type"}),
        ("float(len(answer) > 10_000 or answer == problem.answer)", {"over-long"}),
        ("float(answer == problem.prompt or answer == problem.answer)", {"echo"}),
        ("float(not answer.isascii() or answer == problem.answer)", {"broken answers"}),
        ("float(answer == problem.answer + '!')", {"oracle"}),
        ("float(np.random.random() < 0.5)", {"oracle", "idle", "own cheats", "same verdict"}),
        ("{}['x']", {"oracle", "idle", "own cheats", "broken answers"}),
        ("float('nan')", {"oracle", "idle", "own cheats", "broken answers"}),
        ("2. * (answer == problem.answer)", {"value range"}),
        ("None if answer != problem.answer else 1.", set()),
    ],
)
def test_a_planted_reward_is_found(tmp_path: Path, score: str, probes: set[str]) -> None:
    found = faulty(tmp_path, score=f"{SCORE} => {score}")
    assert found.passed is not bool(probes), found.holes
    assert probes <= failed(found), found.findings


def test_an_oracle_that_is_wrong_is_found(tmp_path: Path) -> None:
    wrong = "    def oracle(self, task):\n        return {'agent': say('12')}\n"
    assert failed(faulty(tmp_path, wrong)) == {"oracle"}
    none = "    def oracle(self, task):\n        raise NotImplementedError\n"
    assert "oracle" in failed(faulty(tmp_path, none))
    assert faulty(tmp_path, none + "    has_oracle = False\n").passed


def test_calling_the_task_invalid_is_no_way_out(tmp_path: Path) -> None:
    shrugs = (
        "    def judge(self, episodes, hidden, ctx):\n"
        "        from puna.core.outcome import Invalid\n"
        "        found = super().judge(episodes, hidden, ctx)\n"
        "        bad = {'agent': Invalid('not my fault')}\n"
        "        return [f if f['agent'].success else bad for f in found]\n"
    )
    found = faulty(tmp_path, shrugs)
    assert {"idle", "own cheats", "broken answers", "many answers"} <= failed(found)
    assert "not my fault" in str(found.findings)


def test_resources_are_made_once_a_process_and_torn_down(tmp_path: Path) -> None:
    log = tmp_path / "log"
    counted = (
        f"    log = {str(log)!r}\n"
        "    def setup(self):\n        open(self.log, 'a').write('made ')\n        return 'db'\n"
        "    def teardown(self, resources):\n"
        "        open(self.log, 'a').write('torn down ' + resources + ' ')\n"
        "    def start(self, task, resources, ctx):\n        assert resources == 'db'\n"
        "        return super().start(task, resources, ctx)\n"
    )
    assert faulty(tmp_path, counted).passed
    assert log.read_text().count("made ") == log.read_text().count("torn down db ") == 2


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
    found = faulty(tmp_path, fragile)
    assert found.passed  # the loop scores such a message 0
    told = {f.probe: f for f in found.findings}["forged verdict"]
    assert told.status == "note"
    assert "makes the environment fail" in told.seen


def test_cheats_that_cannot_be_made_are_found(tmp_path: Path) -> None:
    broken = "    def cheats(self, task):\n        return {'x': 1 / 0}\n"
    found = faulty(tmp_path, broken)
    assert failed(found) == {"own cheats"}
    assert "ZeroDivisionError" in str(found.findings)
    none = faulty(tmp_path, broken.replace("'x': 1 / 0", ""))
    assert none.passed
    assert {f.probe: f.status for f in none.findings}["own cheats"] == "note"


@pytest.mark.parametrize(
    ("draw", "seen"),
    [
        ("np.random.default_rng().integers(100, 1000, 2)", "determinism"),
        ("(np.random.randint(100, 1000), rng.integers(100, 1000))", "determinism"),
        ("(hash(str(rng.integers(100, 1000))) % 900, 5)", "other process"),
    ],
)
def test_tasks_that_are_not_deterministic_are_found(tmp_path: Path, draw: str, seen: str) -> None:
    found = faulty(tmp_path, draw=f"rng.integers(100, 1000, 2) => {draw}")
    assert seen in failed(found)
    assert "tasks differ" in {f.probe: f.seen for f in found.findings}[seen]


def test_an_environment_that_prints_is_not_taken_for_random(tmp_path: Path) -> None:
    assert faulty(tmp_path, "print('hello')\n").passed


def test_overlap_of_train_and_test_is_found(tmp_path: Path) -> None:
    overlap = "    def task(self, split, index):\n        return super().task('train', index)\n"
    found = faulty(tmp_path, overlap)
    assert failed(found) == {"train/test overlap"}
    assert "common, e.g." in found.holes[0].seen


def test_a_declared_chance_is_held_to(tmp_path: Path) -> None:
    pays = "0.3 if answer == 'yes' else float(answer == problem.answer)"
    free = f"{SCORE} => {pays}"
    cheap = {"own cheats", "constant answer"}
    assert failed(faulty(tmp_path, score=free)) == cheap
    assert faulty(tmp_path, "    chance = 0.3\n", score=free).passed
    assert failed(faulty(tmp_path, "    chance = 0.01\n", score=free)) == cheap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", "must define one Environment class, found: none"),
        (GOOD + "class B(Sums): pass", "found: Sums, B"),
        (GOOD.replace('name = "sums"', ""), "has no name"),
    ],
)
def test_what_is_no_environment_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "e.py").write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        audit(str(tmp_path / "e.py"), n=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "probe", "expected"),
    [
        ("1 / 0", "load", "cannot be imported: ZeroDivisionError"),
        ("import sys; sys.exit(3)", "load", "cannot be imported: SystemExit"),
        ("import os; os._exit(3)", "load", "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "load", "signal 11"),
        (GOOD.replace("500", "0").replace("100}", "0}"), "load", "sums has no tasks"),
        (GOOD.replace("500", "'many'"), "load", "count('train') is 'many'"),
        (GOOD.replace("return Problem", "raise KeyError('x')\n        return Problem"), "load",
         "sums cannot make a task of train: KeyError"),
        (GOOD + "    def belongs(self, prompt):\n        return 'train'\n", "load",
         "1,000 draws gave no problem of split test"),
        (GOOD + "    def setup(self):\n        raise OSError('no disk')\n", "load", "no disk"),
        (GOOD + "    def judge(self, e, h, c):\n        import os; os._exit(0)\n", "load",
         "exit status 0"),
        (GOOD + "    def judge(self, e, h, c):\n        return [{'agent': None} for _ in e]\n",
         "oracle", "NoneType is not an Outcome"),
        (GOOD + "    def judge(self, e, h, c):\n        return [{'agent': 1.0} for _ in e]\n",
         "oracle", "float is not an Outcome"),
        (GOOD + "    def judge(self, e, h, c):\n        return 'fine'\n", "oracle", "Infra"),
        (GOOD.replace("float(answer.strip()", "np.ones(3) * (answer.strip()"), "oracle", "Infra"),
        ("import os, time\nif os.fork() == 0:\n    time.sleep(60)\n" + GOOD, "process",
         "left behind"),
        ("print('x' * 20_000_000)\n" + GOOD, "process", "MB of output"),
        (GOOD.replace('"train": 500', '"train": 10**15'), "", ""),
        (GOOD.replace("integers(100, 1000, 2)", "integers(100, 110, 2)"), "frequent answer",
         "declared 0"),
    ],
)  # fmt: skip
def test_whatever_it_does_is_a_finding(
    tmp_path: Path, text: str, probe: str, expected: str
) -> None:
    (tmp_path / "e.py").write_text(text)
    found = audit(str(tmp_path / "e.py"), n=4)
    seen = {f.probe: f.seen for f in found.holes}
    assert found.passed is not bool(probe), seen
    if probe:
        assert expected in seen[probe], seen


def test_a_hole_is_found_where_there_is_one_task_alone(tmp_path: Path) -> None:
    alone = GOOD.replace('"train": 500, "test": 100', '"train": 1, "test": 0')
    assert alone != GOOD
    (tmp_path / "e.py").write_text(alone)
    assert audit(str(tmp_path / "e.py"), n=4).passed
    (tmp_path / "e.py").write_text(alone.replace(SCORE, "float(bool(answer))"))
    assert "constant answer" in failed(audit(str(tmp_path / "e.py"), n=4))


def test_at_least_one_task() -> None:
    with pytest.raises(UserError, match="n is 0"):
        audit("arithmetic", n=0)
