"""compare(): paired over the common tasks, refusing what is not of one kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import puna
from puna import cli
from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.stats import paired_difference
from puna.engine.policy import EndpointError, Reply
from puna.envs.arithmetic.env import evaluate as value_of
from puna.evals.api import Evaluation, _finish
from puna.evals.compare import compare
from puna.evals.evaluate import evaluate
from puna.gym.registry import load_environment

ENV = load_environment("arithmetic", {"terms": 2})


class Pupil:
    """Right where `knows(value)`; the endpoint fails where that gives None."""

    def __init__(self, knows: Callable[[int], bool | None]) -> None:
        self.knows = knows

    async def chat(self, messages: Any, tools: Any = (), **_: Any) -> Reply:
        value = value_of(messages[-1].text.rstrip("="))
        known = self.knows(value)
        if known is None:
            raise EndpointError("connection refused")
        return Reply(Message.assistant(str(value if known else value + 1)))


def left(
    where: Path, knows: Callable[[int], bool | None], n: int = 20, env: Any = ENV, **facts: Any
) -> Evaluation:
    """What `puna eval` leaves of a pupil."""
    known = {"k": 1, "temperature": 0.0, "max_tokens": 32, "seed": 0, "env_seed": env.seed}
    known |= {"env": env.content_hash, "weights": where.name, **facts}
    result = evaluate(
        env, {"agent": Pupil(knows)}, n=n, k=known["k"], policy=where.name,
        journal=where / "episodes.jsonl",
    )  # fmt: skip
    return _finish(where.name, result, where, known)


def values(n: int) -> list[int]:
    return [value_of(ENV.task("test", i).key.rstrip("=")) for i in range(n)]


def test_the_difference_is_paired_and_b_minus_a(tmp_path: Path) -> None:
    a = left(tmp_path / "a", lambda v: v % 3 == 0)
    b = left(tmp_path / "b", lambda v: v % 3 != 1)
    found = compare(tmp_path / "a", str(tmp_path / "b"))
    gained = [float(v % 3 == 2) for v in values(20)]
    assert 0 < sum(gained) < 20
    assert found.difference.mean == pytest.approx(sum(gained) / 20)
    tasks = {str(i): g for i, g in enumerate(gained)}
    by_hand = paired_difference(tasks, dict.fromkeys(tasks, 0.0))
    assert (found.difference.low, found.difference.high) == (by_hand.low, by_hand.high)
    assert (found.a, found.b) == (a.score, b.score)
    assert (found.tasks, found.verdict, found.role) == (20, "better", "agent")
    left(tmp_path / "a", lambda v: v % 3 == 0, n=25)  # more of the same, later
    assert compare(a, tmp_path / "b") == replace(found, names=("a", str(tmp_path / "b")))
    back = compare(b, a)
    assert back.difference.mean == -found.difference.mean
    assert (back.verdict, back.names) == ("worse", ("b", "a"))
    assert compare(a, a).verdict == "no difference shown"


def test_only_common_tasks_count(tmp_path: Path) -> None:
    a = left(tmp_path / "a", lambda v: v % 2 == 0, n=30)
    left(tmp_path / "b", lambda v: True, n=12)
    found = compare(tmp_path / "a", tmp_path / "b")
    shares = [sum(v % 2 == 0 for v in values(n)) / n for n in (12, 30)]
    assert shares[0] != shares[1]
    assert found.tasks == found.difference.n == 12
    assert found.a.value is not None and a.score.value is not None  # noqa: PT018
    assert (found.a.value.mean, a.score.value.mean) == (pytest.approx(shares[0]), shares[1])


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"temperature": 1.0}, "temperature is 0.0 and 1.0"),
        ({"max_tokens": 33}, "max_tokens is 32 and 33"),
        ({"k": 2}, "k is 1 and 2"),
        ({"env_seed": 1}, "env_seed is 0 and 1"),
        ({"env": load_environment("arithmetic", {"terms": 3})}, "env hash is"),
    ],
)
def test_what_is_not_of_one_kind_is_refused(
    tmp_path: Path, facts: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left(tmp_path / "a", bool, n=4)
    left(tmp_path / "b", bool, n=4, **facts)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    said = capsys.readouterr().err
    assert "cannot be compared" in said
    assert expected in said
    assert said.count("\n") == 1


def test_another_version_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        left(tmp_path / name, bool, n=4)
    path = tmp_path / "b" / "result.json"
    path.write_text(path.read_text().replace(ENV.version, "9.9"))
    with pytest.raises(UserError, match=f"env version is {ENV.version} and 9.9"):
        compare(tmp_path / "a", tmp_path / "b")


def test_seed_weights_and_threads_may_differ(tmp_path: Path) -> None:
    left(tmp_path / "a", bool, n=4, seed=1, threads=1, dtype="float32")
    left(tmp_path / "b", bool, n=4, seed=2, threads=2, dtype="bfloat16")
    assert compare(tmp_path / "a", tmp_path / "b").tasks == 4


def test_what_was_not_scored_is_said_and_left_out(tmp_path: Path) -> None:
    left(tmp_path / "a", lambda v: None if v % 3 == 0 else True)
    b = left(tmp_path / "b", lambda v: True)
    found = compare(tmp_path / "a", b)
    lost = sum(v % 3 == 0 for v in values(20))
    assert 0 < lost < 20
    assert (found.a.n_infra, found.difference.n, found.tasks) == (lost, 20 - lost, 20)
    assert f"{lost} infra" in str(found)
    left(tmp_path / "c", lambda v: None, n=5)
    with pytest.raises(UserError, match="no task was scored on both sides"):
        compare(tmp_path / "c", b)


def make_run(root: Path, envs: tuple[Any, ...] = (ENV,)) -> Path:
    """A run whose eval stage scored sft and rl, on 10 tasks of each environment."""
    skills = {"sft": lambda v: v % 2 == 0, "rl": lambda v: True}
    scores, stages = [], []
    for name, knows in skills.items():
        stages.append({"id": name, "kind": "sft"})
        (root / name).mkdir(parents=True)
        (root / name / "stage.json").write_text(json.dumps({"weights": f"of {name}"}))
        for i, env in enumerate(envs):
            tail = f"-{env.content_hash[:8]}" if i else ""
            journal = root / "eval" / f"episodes-{name}-arithmetic{tail}.jsonl"
            for policy, what in (("older", bool), (f"of {name}", knows)):
                found = evaluate(env, {"agent": Pupil(what)}, n=10, policy=policy, journal=journal)
            row = {"stage": name, "env": dict(found.env), "role": "agent"}
            scores.append({**row, "score": found.score.to_json()})
    config = {"k": 1, "temperature": 0.0, "max_tokens": 32, "n": 10}
    record = {"config": config, "seed": 0, "result": {"scores": scores}}
    (root / "eval" / "stage.json").write_text(json.dumps(record))
    stages.append({"id": "eval", "kind": "eval"})
    (root / "run.json").write_text(json.dumps({"stages": stages, "machine": {"threads": 1}}))
    return root


def test_stages_of_a_run_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    found = compare(run / "sft", run / "rl")
    monkeypatch.chdir(run / "sft")
    assert compare(".", "../rl").difference == found.difference
    assert found.difference.mean == pytest.approx(sum(v % 2 for v in values(10)) / 10)
    other = make_run(tmp_path / "other")
    assert compare(run, other).a == compare(run / "rl", other / "rl").b  # the last scored stage
    assert compare(run, other).difference.mean == 0.0
    assert compare(other / "sft", puna.Run(run)).difference == found.difference
    # and beside what an eval stage found, what `puna eval` left
    beside = left(tmp_path / "run" / "evals" / "x", lambda v: v % 2 == 1, n=10)
    assert compare(run / "sft", beside).b == beside.score


def test_of_several_environments_one_is_named(tmp_path: Path) -> None:
    three = load_environment("arithmetic", {"terms": 3})
    run = make_run(tmp_path / "run", (ENV, three))
    with pytest.raises(UserError, match=r"both were evaluated on arithmetic \(.*name one: --env"):
        compare(run / "sft", run / "rl")
    for env in (ENV, three):
        found = compare(run / "sft", run / "rl", env=env.content_hash[:8])
        assert found.env["hash"] == env.content_hash
    with pytest.raises(UserError, match="did you mean 'arithmetic'"):
        compare(run / "sft", run / "rl", env="arithmetik")
    with pytest.raises(UserError, match="has no role 'host'; known: agent"):
        compare(run / "sft", run / "rl", env=ENV.content_hash, role="host")


def test_a_checkpoint_means_what_was_left_in_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        left(tmp_path / name / "evals" / "x", bool, n=4)
    assert compare(tmp_path / "a", tmp_path / "b").tasks == 4


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p: (p / "result.json").write_text("{"), "has a broken record"),
        (lambda p: (p / "result.json").write_text("[]"), "has a broken record"),
        (lambda p: (p / "result.json").write_text('{"facts": {}}'), "has a broken record"),
        (lambda p: (p / "episodes.jsonl").unlink(), "has no evaluation"),
        (lambda p: (p / "result.json").unlink(), "has no evaluation; puna eval"),
        (lambda p: p.rename(p.with_name("gone")), "no result or run at"),
    ],
)
def test_broken_and_missing_results_are_one_line(
    tmp_path: Path, spoil: Callable[[Path], Any], expected: str
) -> None:
    for name in ("a", "b"):
        left(tmp_path / name, bool, n=2)
    spoil(tmp_path / "b")
    with pytest.raises(UserError, match=expected):
        compare(tmp_path / "a", tmp_path / "b")


def test_the_verb_prints_four_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (left(tmp_path / n, k) for n, k in (("a", lambda v: v % 3 == 0), ("b", lambda v: True)))
    assert cli.main(["compare", str(a.directory), str(b.directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"arithmetic {ENV.version} (")
    assert lines[0].endswith("agent, 20 tasks in common")
    assert a.score.line() in lines[1]
    assert b.score.line() in lines[2]
    assert lines[3].endswith(": better")
    assert "p=" in lines[3]
    assert len(lines) == 4
