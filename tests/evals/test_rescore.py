"""Stored episodes are judged again: by the same verifier alike, by a changed one differently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puna.core.errors import UserError
from puna.core.files import write_json
from puna.core.messages import Message
from puna.engine.policy import Reply
from puna.evals.evaluate import evaluate
from puna.evals.rescore import print_rescored, rescore
from puna.gym.registry import load_environment
from puna.gym.seat import Scripted

ENV = '''
from puna import Problem, SingleTurn

class Doubles(SingleTurn):
    """Twice the number."""
    name = "doubles"
    sizes = {"train": 50, "test": 30}
    def make(self, rng):
        a = int(rng.integers(100, 1000))
        return Problem(f"2 x {a}", str(2 * a))
    def score(self, answer, problem):
        return float(answer.strip() == problem.answer)
'''


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Thirty tasks answered twice: right, right with a full stop, or wrong."""
    (tmp_path / "doubles.py").write_text(ENV)
    env = load_environment(str(tmp_path / "doubles.py"), seed=5)
    count = 0

    def answer(heard: list[Message]) -> Message:
        nonlocal count
        count += 1
        right = str(2 * int(heard[0].text.split()[-1]))
        return Message.assistant([right, right + ".", "7"][count % 3])

    where = tmp_path / "result"
    where.mkdir()
    evaluate(
        env, {"agent": Scripted(answer)}, n=30, k=2, journal=where / "episodes.jsonl", concurrency=1
    )
    write_json(where / "result.json", {"facts": {"env_seed": 5}})
    return where


def test_the_same_verifier_says_the_same(stored: Path) -> None:
    found = rescore(stored, str(stored.parent / "doubles.py"))
    assert (found.episodes, found.changes, found.new_tasks) == (60, (), ())
    assert found.before["agent"].value == found.after["agent"].value
    assert found.stored == found.env["hash"]
    assert found.before["agent"].value.mean == pytest.approx(1 / 3, abs=0.02)


def test_a_changed_verifier_is_listed_episode_by_episode(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored.parent / "doubles.py"
    path.write_text(ENV.replace("answer.strip()", "answer.strip(' .')"))
    found = rescore(stored / "episodes.jsonl", str(path))
    assert len(found.changes) == 20
    assert {(c.before.value, c.after.value) for c in found.changes} == {(0.0, 1.0)}
    assert found.after["agent"].value.mean == pytest.approx(2 / 3, abs=0.02)
    assert found.stored != found.env["hash"]
    print_rescored(found, most=3)
    out = capsys.readouterr().out
    assert "20 verdicts differ" in out
    assert "and 17 more" in out
    assert "code or settings differ" in out
    assert len(found.to_json()["changes"]) == 20


def test_tasks_that_are_others_now_are_not_judged(stored: Path) -> None:
    path = stored.parent / "doubles.py"
    path.write_text(ENV.replace("2 x {a}", "Twice {a}"))
    with pytest.raises(UserError, match="none of the stored episodes"):
        rescore(stored, str(path))
    path.write_text(ENV)
    (stored / "result.json").unlink()
    other = rescore(stored, str(path))  # seed 0 where nothing tells it
    assert len(other.new_tasks) > 25  # one or two may be the same by chance
    assert rescore(stored, str(path), seed=5).episodes == 60


def test_a_real_database_is_judged_again(tmp_path: Path) -> None:
    env = load_environment("shop", {"intents": 1}, 0)

    class Knows:
        """The oracle of whatever task it is shown."""

        async def chat(self, messages, tools=(), **_):  # type: ignore[no-untyped-def]
            task = next(t for t in tasks if t.messages[1].text == messages[1].text)
            return Reply(env.oracle(task)["agent"](messages))

    tasks = [env.task("test", i) for i in range(5)]
    where = tmp_path / "result"
    evaluate(env, {"agent": Knows()}, n=5, journal=where / "episodes.jsonl")
    found = rescore(where, "shop", settings={"intents": 1})
    assert found.episodes == 5
    assert not found.changes
    assert found.after["agent"].value.mean == 1.0
    for artifact in (where / "artifacts").iterdir():
        artifact.unlink()
    with pytest.raises(UserError, match=r"the artifact .* is gone"):
        rescore(where, "shop", settings={"intents": 1})


def test_mistakes_are_one_line(stored: Path, tmp_path: Path) -> None:
    path = str(stored.parent / "doubles.py")
    with pytest.raises(UserError, match="no stored episodes at"):
        rescore(tmp_path / "nowhere", path)
    with pytest.raises(UserError, match="no stored episodes at"):
        rescore(tmp_path, path)
    with pytest.raises(UserError, match="are of 'doubles'"):
        rescore(stored, "arithmetic")
    journal = stored / "episodes.jsonl"
    lines = journal.read_text().splitlines()
    broken = json.loads(lines[0])
    del broken["outcomes"]
    journal.write_text("\n".join([json.dumps(broken), *lines[1:]]) + "\n")
    with pytest.raises(UserError, match="a record cannot be read"):
        rescore(stored, path)
