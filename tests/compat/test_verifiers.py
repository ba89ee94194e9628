"""verifiers both ways: real tasksets judged here, and environments of ours judged by verifiers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from puna.compat import verifiers
from puna.compat.verifiers_export import Source
from puna.core.errors import UserError
from puna.gym.registry import load_environment

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEER = ROOT / ".peers" / "verifiers" / "bin" / "python"
needs_peer = pytest.mark.skipif(
    not PEER.exists(), reason="no .peers/verifiers: benchmarks/requirements-verifiers.txt"
)


def test_without_verifiers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "verifiers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(
        UserError, match=r"verifiers 0\.4 or newer.*; pip install 'verifiers>=0\.4'"
    ):
        verifiers.load("word-sums", {}, 0)
    for settings, expected in (
        ({"limits": 3}, "env verifiers:x: unknown key 'limits'; did you mean 'limit'?"),
        ({"limit": 0}, "limit is 0, must be at least 1"),
        ({"test_share": 1.0}, "test_share is 1.0, must be between 0 and 1"),
    ):
        with pytest.raises(UserError) as caught:
            verifiers.load("x", settings, 0)
        assert expected in str(caught.value)


def test_an_exported_package_holds_no_answer_and_judges_by_the_environment(tmp_path: Path) -> None:
    folder = verifiers.export("arithmetic", tmp_path, {"terms": 3})
    assert folder == tmp_path / "puna_arithmetic"
    for file in folder.glob("*.py"):
        compile(file.read_text(), str(file), "exec")
    source, env = (
        Source("arithmetic", {"terms": 3}, 0),
        load_environment("arithmetic", {"terms": 3}),
    )
    rows = list(source.rows("test", 3))
    for index, row in enumerate(rows):
        task = env.task("test", index)
        assert row == {
            "name": task.id,
            "split": "test",
            "index": index,
            "prompt": task.messages[0].text,
        }
        answer = task.hidden["problem"].answer

        async def values(index: int = index, answer: str = answer) -> list[float]:
            tries = ((answer, False), (answer + "1", False), ("", False), (answer, True))
            found = [(await source.score("test", index, *t)).value for t in tries]
            return [(await source.reference("test", index)).value, *found]

        assert asyncio.run(values()) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_what_takes_more_than_an_answer_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shop has tools.*puna\.compat\.openenv\.app"):
        verifiers.export("shop", tmp_path)
    with pytest.raises(UserError, match="more than one turn"):
        verifiers.export("shop", tmp_path, {"prompt": "none"})
    assert not list(tmp_path.iterdir())


def test_a_failing_verifier_is_an_error_in_verifiers_not_a_zero(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(
        "from puna.gym.environment import Problem, SingleTurn\n"
        "class Broken(SingleTurn):\n"
        "    name = 'broken'\n"
        "    def make(self, rng): return Problem(str(rng.integers(10**9)), '1')\n"
        "    def score(self, answer, problem): raise ConnectionError('no database')\n"
    )
    verifiers.export(str(file), tmp_path)
    text = (tmp_path / "puna_broken" / "taskset.py").read_text()
    assert repr(str(file.resolve())) in text
    with pytest.raises(RuntimeError, match="no database"):
        asyncio.run(Source(str(file), {}, 0).score("test", 0, "1", False))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What peers/verifiers_checks.py found out."""
    path = os.pathsep.join([str(ROOT), str(HERE / "peers" / "tasksets")])
    done = subprocess.run(
        [str(PEER), str(HERE / "peers" / "verifiers_checks.py"), str(tmp_path_factory.mktemp("x"))],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@needs_peer
@pytest.mark.slow
def test_a_real_taskset_is_shown_split_and_judged(real: dict[str, Any]) -> None:
    found = real["word_sums"]
    assert found["hashes"][0] == found["hashes"][1]
    assert [role for role, _ in found["shown"]] == ["system", "user"]
    assert sum(found["counts"]) == 36
    assert min(found["counts"]) > 0
    assert found["common"] == []
    left_out = "left out, because it needs a runtime: tests_pass"
    assert (found["oracle"]["value"], found["oracle"]["success"]) == (1.0, True)
    assert found["oracle"]["parts"] == {"correct": 1.0, "terse": 1.0, "turns": 1.0}
    assert left_out in found["oracle"]["evidence"]
    assert (
        found["answers"]["x"]["kind"] == "scored"
    )  # the reward raised, and it was the answer's doing
    assert found["answers"]["x"]["value"] == 0.0
    assert "invalid literal for int()" in found["answers"]["x"]["evidence"]
    assert found["answers"]["\ud800"]["value"] == 0.0


@needs_peer
@pytest.mark.slow
def test_the_audit_finds_that_a_format_reward_pays_for_any_number(real: dict[str, Any]) -> None:
    audit = real["word_sums"]["audit"]
    assert [p for p, (passed, _) in audit.items() if not passed] == ["constant answer"]
    assert "earned 0.1" in audit["constant answer"][1]
    assert all(passed for passed, _ in real["capitals"]["audit"].values())


@needs_peer
@pytest.mark.slow
def test_a_taskset_with_its_own_splits(real: dict[str, Any]) -> None:
    found = real["capitals"]
    assert found["shown"] == [["user", "France?"], ["assistant", "Paris"], ["user", "Ecuador?"]]
    assert found["counts"] == [2, 2]  # Peru is in both: train gives it up
    assert found["common"] == []
    assert found["oracle"]["parts"] == {"right": 1.0, "close": 0.5}
    assert found["oracle"]["value"] == 1.5
    assert found["answers"]["Q"]["value"] == 0.5
    assert found["answers"][""]["value"] == 0.0


@needs_peer
@pytest.mark.slow
def test_verifiers_loads_and_scores_what_is_exported(real: dict[str, Any]) -> None:
    assert len({row["prompt"] for row in real["export"]}) == 5
    for row in real["export"]:
        got = [row[k] for k in ("valid", "right", "wrong", "nothing", "cut")]
        assert got == [True, 1.0, 0.0, 0.0, 0.0]
    assert real["back"]["counts"] == [20, 20]
    assert real["torch"] is False


@needs_peer
@pytest.mark.slow
def test_what_cannot_be_played_here_is_refused_in_one_line(real: dict[str, Any]) -> None:
    refused = real["refused"]
    assert "openenv is played by an Env of its own" in refused["openenv"]
    assert "every reward of verifiers:boxed needs its runtime" in refused["boxed"]
    assert "taskset 'nowhere' not found" in refused["nowhere"]
    assert "mst" in refused["setting"]
    assert all("\n" not in line for line in refused.values())
