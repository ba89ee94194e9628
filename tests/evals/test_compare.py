"""compare(): paired over the common tasks, refusing what is not of one kind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import puna
from puna import cli
from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Outcome, Scored
from puna.core.rng import stream
from puna.core.stats import paired_difference
from puna.engine.policy import EndpointError, Reply
from puna.envs.arithmetic.env import evaluate as value_of
from puna.evals.api import Evaluation, _finish
from puna.evals.compare import Comparison, Suite, compare, compare_results, counted
from puna.evals.evaluate import evaluate
from puna.evals.results import Result
from puna.gym.registry import load_environment

ENV = load_environment("arithmetic", {"terms": 2})
THREE = load_environment("arithmetic", {"terms": 3})


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
    label = facts.pop("policy", where.name)
    known = {"k": 1, "temperature": 0.0, "max_tokens": 32, "seed": 0, "env_seed": env.seed}
    known |= {"env": env.content_hash, "weights": where.name, **facts}
    result = evaluate(
        env, {"agent": Pupil(knows)}, n=n, k=known["k"], policy=where.name,
        journal=where / "episodes.jsonl",
    )  # fmt: skip
    return _finish(label, result, where, known)


def only(a: Any, b: Any, **given: str) -> Suite:
    """The comparison of what has one environment."""
    (suite,) = compare(a, b, **given).suites
    return suite


def values(n: int) -> list[int]:
    return [value_of(ENV.task("test", i).key.rstrip("=")) for i in range(n)]


def test_the_difference_is_paired_and_b_minus_a(tmp_path: Path) -> None:
    a = left(tmp_path / "a", lambda v: v % 3 == 0)
    b = left(tmp_path / "b", lambda v: v % 3 != 1)
    both = compare(tmp_path / "a", str(tmp_path / "b"))
    (found,) = both.suites
    gained = [float(v % 3 == 2) for v in values(20)]
    assert 0 < sum(gained) < 20
    assert found.difference.mean == pytest.approx(sum(gained) / 20)
    tasks = {str(i): g for i, g in enumerate(gained)}
    by_hand = paired_difference(tasks, dict.fromkeys(tasks, 0.0))
    assert (found.difference.low, found.difference.high) == (by_hand.low, by_hand.high)
    assert (found.a, found.b) == (a.score, b.score)
    assert (found.tasks, found.verdict, found.role) == (20, "better", "agent")
    left(tmp_path / "a", lambda v: v % 3 == 0, n=25)  # more of the same, later
    assert compare(a, tmp_path / "b") == replace(both, names=("a", str(tmp_path / "b")))
    back = compare(b, a)
    assert back.suites[0].difference.mean == -found.difference.mean
    assert (back.suites[0].verdict, back.names) == ("worse", ("b", "a"))
    same = compare(a, a)
    assert same.suites[0].verdict == "no difference shown"
    assert same.names == same.places == (str(a.directory),) * 2


def test_only_common_tasks_count(tmp_path: Path) -> None:
    a = left(tmp_path / "a", lambda v: v % 2 == 0, n=30)
    left(tmp_path / "b", lambda v: True, n=12)
    found = only(tmp_path / "a", tmp_path / "b")
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
    assert only(tmp_path / "a", tmp_path / "b").tasks == 4


def test_what_was_not_scored_is_said_and_left_out(tmp_path: Path) -> None:
    left(tmp_path / "a", lambda v: None if v % 3 == 0 else True)
    b = left(tmp_path / "b", lambda v: True)
    found = only(tmp_path / "a", b)
    lost = sum(v % 3 == 0 for v in values(20))
    assert 0 < lost < 20
    assert (found.a.n_infra, found.difference.n, found.tasks) == (lost, 20 - lost, 20)
    assert len(found.pairs) == sum(found.solved.values()) == 20 - lost
    assert f"{lost} infra" in str(compare(tmp_path / "a", b))
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
    found = only(run / "sft", run / "rl")
    monkeypatch.chdir(run / "sft")
    assert only(".", "../rl").difference == found.difference
    assert found.difference.mean == pytest.approx(sum(v % 2 for v in values(10)) / 10)
    other = make_run(tmp_path / "other")
    assert only(run, other).a == only(run / "rl", other / "rl").b  # the last scored stage
    assert only(run, other).difference.mean == 0.0
    assert only(other / "sft", puna.Run(run)).difference == found.difference
    # and beside what an eval stage found, what `puna eval` left
    beside = left(tmp_path / "run" / "evals" / "x", lambda v: v % 2 == 1, n=10)
    assert only(run / "sft", beside).b == beside.score


def test_all_environments_are_compared_or_the_one_that_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", (ENV, THREE))
    both = compare(run / "sft", run / "rl")
    assert [s.env["hash"] for s in both.suites] == [ENV.content_hash, THREE.content_hash]
    assert compare(run / "sft", run / "rl", env="arithmetic") == both
    titles = [both.title(s) for s in both.suites]
    assert titles == [f"arithmetic {ENV.version} ({e.content_hash[:8]})" for e in (ENV, THREE)]
    for env, suite in zip((ENV, THREE), both.suites, strict=True):
        found = only(run / "sft", run / "rl", env=env.content_hash[:8])
        assert found == replace(suite, p_holm=suite.difference.p_value)
        assert found.env["hash"] == env.content_hash
    with pytest.raises(UserError, match="did you mean 'arithmetic'"):
        compare(run / "sft", run / "rl", env="arithmetik")
    with pytest.raises(UserError, match="has no role 'host'; known: agent"):
        compare(run / "sft", run / "rl", env=ENV.content_hash, role="host")


def test_several_p_values_are_adjusted_before_a_winner_is_named(tmp_path: Path) -> None:
    # 6 tasks gained and none lost is p = 2 / 2**6: a winner alone, none among two environments.
    for i, env in enumerate((ENV, THREE)):
        at = [value_of(env.task("test", i).key.rstrip("=")) for i in range(20)]
        gained = set(at[:6])
        left(tmp_path / "a" / str(i), lambda v, g=gained: v not in g, env=env, policy="a")
        left(tmp_path / "b" / str(i), lambda v: True, env=env, policy="b")
    alone = only(tmp_path / "a" / "0", tmp_path / "b" / "0")
    assert alone.difference.p_value == pytest.approx(2 / 2**6, abs=0.006)
    assert (alone.verdict, alone.p_holm) == ("better", alone.difference.p_value)
    both = compare(tmp_path / "a", tmp_path / "b")
    first, second = both.suites
    assert (first.difference, first.difference.low > 0) == (alone.difference, True)
    smaller, larger = sorted((first.difference.p_value, second.difference.p_value))
    assert {first.p_holm, second.p_holm} == {2 * smaller, max(2 * smaller, larger)}
    assert {s.verdict for s in both.suites} == {"no difference shown"}
    assert "B on 2 environments: better on 0, worse on 0, no difference shown on 2" in str(both)
    assert str(both).count("Holm's p=0.0") == 2
    assert "Holm" not in str(compare(tmp_path / "a" / "0", tmp_path / "b" / "0"))


def test_what_only_one_has_or_was_played_otherwise_is_left_out_and_said(tmp_path: Path) -> None:
    for side in ("a", "b"):
        left(tmp_path / side / "common", bool, n=4, policy=side)
    left(tmp_path / "a" / "three", bool, n=4, env=THREE, policy="a")
    found = compare(tmp_path / "a", tmp_path / "b")
    assert len(found.suites) == 1
    name = f"arithmetic ({THREE.content_hash[:8]})"
    assert found.left_out == (f"{name}: only A was evaluated on it",)
    assert f"left out: {name}: only A" in str(found)
    left(tmp_path / "b" / "three", bool, n=4, env=THREE, policy="b", max_tokens=9)
    assert compare(tmp_path / "b", tmp_path / "a").left_out == (f"{name}: max_tokens is 9 and 32",)
    left(tmp_path / "a" / "again", lambda v: None, n=4, env=THREE, policy="a", max_tokens=9)
    (said,) = compare(tmp_path / "a", tmp_path / "b").left_out
    assert said.startswith("no task was scored on both sides on arithmetic")


def test_a_folder_with_results_of_two_policies_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        left(tmp_path / "all" / name, bool, n=4, policy=name)
    with pytest.raises(UserError, match="all holds results of x, y; name the directory of one"):
        compare(tmp_path / "all", tmp_path / "all" / "x")


def test_wins_and_losses_by_hand() -> None:
    def side(rows: dict[str, list[float | None]]) -> Result:
        outcomes: dict[str, list[Outcome]] = {
            task: [Infra("down") if v is None else Scored(v, v == 1) for v in row]
            for task, row in rows.items()
        }
        env = {"name": "e", "version": "1.0", "hash": "ab"}
        return Result("x", env, {"k": 2}, {"agent": outcomes})

    a = side(
        {"one": [1, 1], "two": [0, 1], "three": [0, 0], "four": [0.5, 0.5], "five": [None] * 2}
    )
    b = side({"one": [0, 0], "two": [1, 1], "three": [1, None], "four": [0.5, 0.5], "five": [1, 1]})
    found = compare_results(a, b)
    assert [(p.task, p.difference) for p in found.wins] == [("three", 1.0), ("two", 0.5)]
    assert [(p.task, p.difference) for p in found.losses] == [("one", -1.0)]
    assert found.solved == {"both": 1, "A alone": 1, "B alone": 1, "neither": 1}
    assert (found.tasks, found.difference.n, found.difference.mean) == (5, 4, 0.125)
    told = "B ahead on 2, A on 1, level on 1; solved by both 1, A alone 1, B alone 1, neither 1"
    assert counted(found) == told
    text = Comparison(("p", "q"), ("p", "q"), (found,)).text(1)
    assert "  B ahead, 1 of 2 tasks:\n    +1.000  0.000 -> 1.000  three\n  A ahead, 1 of 1" in text
    assert "two" not in text
    assert "pass@2 " in text
    assert "pass^2 " in text
    data = json.loads(json.dumps(found.to_json(1), allow_nan=False))
    assert [row["task"] for row in data["wins"]] == ["three"]
    assert (data["n_wins"], data["n_losses"], data["verdict"]) == (2, 1, "no difference shown")
    assert data["difference"]["mean"] == 0.125


def test_fifty_thousand_episodes_are_compared_in_under_five_seconds() -> None:
    random = stream(0, "speed")
    env = {"name": "e", "version": "1.0", "hash": "ab"}
    sides = [
        Result(name, env, {"k": 10}, {"agent": {
            f"t{i}": [Scored(float(v), bool(v)) for v in row]
            for i, row in enumerate(random.random((5_000, 10)) < skill)
        }})
        for name, skill in (("a", 0.5), ("b", 0.53))
    ]  # fmt: skip
    start = time.process_time()
    suite = compare_results(*sides)
    text = Comparison(("a", "b"), ("a", "b"), (suite,)).text(10)
    assert time.process_time() - start < 5
    assert suite.verdict == "better"
    assert "5,000 tasks in common" in text


def test_a_checkpoint_means_what_was_left_in_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        left(tmp_path / name / "evals" / "x", bool, n=4)
    assert only(tmp_path / "a", tmp_path / "b").tasks == 4


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


def test_the_verb_prints_five_lines_an_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (left(tmp_path / n, k) for n, k in (("a", lambda v: v % 3 == 0), ("b", lambda v: True)))
    assert cli.main(["compare", str(a.directory), str(b.directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A: {a.directory}", f"B: {b.directory}"]
    assert lines[2].startswith(f"arithmetic {ENV.version} (")
    assert lines[2].endswith("agent, 20 tasks in common")
    assert a.score.line() in lines[3]
    assert b.score.line() in lines[4]
    assert lines[5].endswith(": better")
    assert "p<0.001; detectable 0." in lines[5]
    assert "A on 0" in lines[6]
    assert len(lines) == 7


def test_the_verb_lists_tasks_prints_json_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (left(tmp_path / n, k) for n, k in (("a", lambda v: v % 3 == 0), ("b", lambda v: True)))
    both = ["compare", str(a.directory), str(b.directory)]
    assert cli.main([*both, "--list", "2"]) == 0
    assert capsys.readouterr().out.count("  +1.000  0.000 -> 1.000  arithmetic/test/") == 2
    page = tmp_path / "page.html"
    assert cli.main([*both, "--json", "--list", "3", "--report", str(page)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == compare(a.directory, b.directory).to_json(3)
    assert len(data["suites"][0]["wins"]) == 3
    assert data["suites"][0]["a"]["value"]["mean"] == a.score.value.mean
    assert "arithmetic/test/" in page.read_text()
    for wrong, said in (("--list=-1", "not a number of tasks"), ("--report=x.pdf", "not a page")):
        assert cli.main([*both, wrong]) == 2
        assert said in capsys.readouterr().err


def test_neither_torch_nor_matplotlib_is_loaded_to_compare() -> None:
    code = "import puna.evals.compare, puna.report.comparison, sys; "
    code += "sys.exit(bool({'matplotlib', 'torch', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
