"""Proposing: all choices of n functions, admitted where reference, stubs and cheats say so."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest
from experiment_kit import environment, judged, repository
from tiny_run import puna

from puna.core.errors import UserError
from puna.core.outcome import Scored
from puna.envs.experiment.env import Experiment
from puna.envs.experiment.propose import nth_choice
from puna.gym.admission import Admission, Gate
from puna.gym.proposer import Draft, UnfitError, Wanted
from puna.gym.registry import load_environment
from puna.sandbox.backends import problem_with

pytestmark = pytest.mark.skipif(bool(problem_with("bubblewrap")), reason="bubblewrap does not work")


def decided(env: Experiment, draft: Draft) -> Admission:
    """What the gate says."""

    async def decide() -> Admission:
        gate = Gate(env, workers=1)
        try:
            return await gate.screen(draft) or await gate.decide(draft)
        finally:
            gate.close()

    return asyncio.run(decide())


def test_choices_by_their_rank() -> None:
    for count, n in [(5, 1), (5, 2), (6, 3), (4, 4)]:
        wanted = list(itertools.combinations(range(count), n))
        assert [nth_choice(count, n, i) for i in range(len(wanted))] == wanted


def test_every_choice_comes_once(tmp_path: Path) -> None:
    proposer = environment(repository(tmp_path), masked=2).proposer()
    assert proposer.functions == ("work.py:total", "work.py:scaled")
    draft = proposer.draw(0, 0)
    assert draft.task.hidden["research"].masked == ("work.py:total", "work.py:scaled")
    assert set(draft.mutants) == {"without work.py:total", "without work.py:scaled"}
    with pytest.raises(UnfitError, match="no more choices"):
        proposer.draw(1, 0)
    one = environment(tmp_path).proposer()
    drawn = [one.draw(i, 3).task.hidden["research"].masked for i in range(2)]
    assert sorted(drawn) == [("work.py:scaled",), ("work.py:total",)]


def test_a_draft_is_admitted_and_its_record_reads_back(tmp_path: Path) -> None:
    env = environment(repository(tmp_path), masked=2)
    proposer = env.proposer()
    draft = proposer.draw(0, 0)
    found = decided(env, draft)
    assert found.admitted, found
    assert found.checks == {"mutants": 2, "repeats": 2}
    again = proposer.from_json(json.loads(json.dumps(proposer.to_json(draft))))
    assert again.task == draft.task
    assert again.task.digest == draft.task.digest
    (tmp_path / "work.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="other contents"):
        proposer.from_json(proposer.to_json(draft))


def test_a_function_whose_stub_passes_is_refused(tmp_path: Path) -> None:
    run = """
        import json, work
        work.logged("done")
        print(json.dumps({"x": work.total([1, 2]), "y": len(str(work.never_fails())) ** 0}))
    """
    work = """
        def total(values):
            return sum(values) + 0
        def logged(text):
            kept = [text]
            return kept
        def never_fails():
            for _ in range(3):
                pass
            return 7
    """
    folder = repository(tmp_path, run_py=run, work_py=work)
    env = environment(folder, command="python3 run.py", second="")
    proposer = env.proposer()
    verdicts = {n: decided(env, proposer.draft_of([n], n)) for n in proposer.functions}
    assert verdicts["work.py:total"].admitted
    for name in ("work.py:logged", "work.py:never_fails"):
        assert verdicts[name].reason == "a trivial answer scores", verdicts[name]
        assert "returns None scores 1" in verdicts[name].evidence


def test_functions_that_stay_are_told_with_the_reason(tmp_path: Path) -> None:
    work = """
        import bisect
        def total(values):
            s = 0
            for value in values:
                s += value
            return s
        def again(numbers):
            t = 0
            for n in numbers:
                t += n
            return t
        def hollow(values): pass
        def long(values):
            x = 0
"""
    work += "".join(f"            x += {i}\n" for i in range(800)) + "            return x\n"
    work += "        def scaled(values, factor):\n            return [factor * v for v in values]\n"
    run = """
        import json
        from work import again, hollow, long, scaled, total
        hollow(1)
        print(json.dumps({"x": total([1]) + again([2]) + long(3), "y": scaled([1.5], 2)}))
    """
    env = environment(repository(tmp_path, run_py=run, work_py=work), second="")
    proposer = env.proposer()
    assert proposer.functions == ("work.py:scaled",)
    assert dict(proposer.refused) == {
        "work.py:hollow": "it has no body to speak of",
        "work.py:total": "work.py:again is a copy of it, and runs",
        "work.py:again": "work.py:total is a copy of it, and runs",
        "work.py:long": "it is longer than 8,000 characters",
    }


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    work = """
        def outer(values):
            def inner(v):
                return v * 2 + len(values)
            return [inner(v) for v in values]
    """
    run = "import json, work\nprint(json.dumps({'x': work.outer([1, 2, 3])}))\n"
    env = environment(repository(tmp_path, run_py=run, work_py=work), second="", masked=2)
    with pytest.raises(UnfitError, match="one function lies within another"):
        env.proposer().draw(0, 0)
    inner = env.proposer().draft_of(["work.py:outer.<locals>.inner"], "t")
    assert decided(env, inner).admitted


def test_no_policy_proposes_here(tmp_path: Path) -> None:
    proposer = environment(repository(tmp_path)).proposer()
    with pytest.raises(UserError, match="leave --model out"):
        proposer.ask(Wanted())
    with pytest.raises(UserError, match="name either a repository or a paper"):
        load_environment("experiment").proposer()


def test_the_command_line(tmp_path: Path) -> None:
    folder = repository(tmp_path / "mine")
    out = tmp_path / "tasks.jsonl"
    words = ["propose", "experiment", "--repo", folder, "--command", "python3 run.py 1"]
    words += ["--second", "python3 run.py 5", "-n", "2", "--out", out]
    done = puna(*words)
    assert done.code == 0, done
    assert "2 functions can be taken out, in 1 choices" in done.out
    assert "1 of 1 admitted" in done.out
    assert puna(*words).code == 0
    env = load_environment("experiment", {"tasks": str(out)})
    assert (env.count("train"), env.count("test")) == (0, 1)
    task = env.task("test", 0)
    assert task.hidden["research"].source.second == "python3 run.py 5"
    assert "run.py 5" not in task.messages[0].text
    outcome = judged(env, task, env.oracle(task))  # type: ignore[arg-type]
    assert isinstance(outcome, Scored)
    assert outcome.success
    trained = load_environment("experiment", {"tasks": str(out), "split": "train"})
    assert (trained.count("train"), trained.count("test")) == (1, 0)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--repo", "/no/such"], "no folder /no/such"),
        ([], "name either a repository or a paper"),
        (["--paper", "usee"], "did you mean 'use'"),
        (["--paper", "use", "-n", "9"], "masked is 9, must be 1 to 5"),
        (["--rep", "x"], "did you mean --repo"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], why: str, tmp_path: Path) -> None:
    done = puna("propose", "experiment", *words, "--out", tmp_path / "x.jsonl")
    assert why in done.error
