"""What is played and judged: the reference earns 1, and nothing but the missing bodies counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from experiment_kit import environment, judged, repository

from puna.core.errors import UserError
from puna.core.messages import Message, Text, ToolCall, ToolResult
from puna.core.outcome import Invalid, Scored
from puna.envs.experiment import acting, numbers, ship
from puna.envs.experiment.env import SHIPPED, Experiment, ExperimentConfig
from puna.envs.experiment.research import Research
from puna.envs.experiment.workspace import TOOLBOX, Desk, ToolLoop, clipped
from puna.gym.environment import say
from puna.gym.registry import load_environment
from puna.gym.task import SPLITS, Script, Task
from puna.sandbox.backends import problem_with

pytestmark = pytest.mark.skipif(bool(problem_with("bubblewrap")), reason="bubblewrap does not work")
FORMS = ("tools", "bodies")


def shipped(form: str) -> Experiment:
    return Experiment(ExperimentConfig(form=form, seconds=10.0))  # type: ignore[arg-type]


def one_of(env: Experiment, masked: int, split: str = "test") -> Task:
    """A task with so many missing functions."""
    tasks = (env.task(split, i) for i in range(env.count(split)))
    return next(t for t in tasks if t.tags["masked"] == str(masked))


def value(env: Experiment, task: Task, script: Script) -> float:
    outcome = judged(env, task, {"agent": script})
    assert isinstance(outcome, Scored), outcome
    assert outcome.success == (outcome.value == 1.0)
    return outcome.value


def calling(task: Task, *calls: tuple[str, dict[str, str]]) -> Script:
    """Makes these calls, one a message, and ends."""
    return acting.acted(task.hidden["research"], "tools", {}, calls)


def test_what_ships_are_all_choices_of_up_to_three_of_five_functions() -> None:
    env = Experiment()
    for split in SPLITS:
        masks = [r.masked for r in env.research[split]]
        assert len(masks) == len(set(masks)) == 25
        assert len({name for mask in masks for name in mask}) == 5
    test, train = ({n for r in env.research[s] for n in r.masked} for s in SPLITS)
    assert not test & train


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("masked", [1, 2, 3])
def test_the_reference_earns_1_and_doing_nothing_0(form: str, split: str, masked: int) -> None:
    env = shipped(form)
    task = one_of(env, masked, split)
    assert value(env, task, env.oracle(task)["agent"]) == 1.0
    assert value(env, task, say("")) == 0.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("split", SPLITS)
def test_on_every_shipped_task_the_reference_earns_1_and_stubs_0(split: str) -> None:
    env = shipped("tools")
    for index in range(env.count(split)):
        task = env.task(split, index)
        assert value(env, task, env.oracle(task)["agent"]) == 1.0, task.id
        for name, scripts in env.cheats(task).items():
            assert value(env, task, scripts["agent"]) == 0.0, (task.id, name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", SPLITS)
def test_each_cheat_earns_nothing(form: str, split: str) -> None:
    env = shipped(form)
    task = one_of(env, 2, split)
    cheats = env.cheats(task)
    assert {"constants", "looks for the original", "returns None"} <= set(cheats)
    assert ("a script that prints constants" in cheats) == (form == "tools")
    assert ("writes the results" in cheats) == (form == "tools" and split == "train")
    for name, scripts in cheats.items():
        assert value(env, task, scripts["agent"]) == 0.0, name


def test_constants_are_caught_by_the_second_command_alone(tmp_path: Path) -> None:
    """Without a hidden command they pass: the page says so, and admission cannot help it."""
    folder = repository(tmp_path)
    found = {}
    for second in ("python3 run.py 5", ""):
        env = environment(folder, second=second)
        draft = env.proposer().draft_of(["work.py:total"], "t")
        research: Research = draft.task.hidden["research"]
        text = 'import os; os.write(1, b\'{"total": 6, "scaled": [3, 6]}\\n\'); os._exit(0)'
        body = {"work.py:total": research.stub_of("work.py:total").replace(acting.STUB, text)}
        found[second] = value(env, draft.task, acting.acted(research, "tools", body))
    assert found == {"python3 run.py 5": 0.0, "": 1.0}


RIGHT = "    return [factor * v for v in values]"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (RIGHT, 1.0),
        ("    return [1.04 * factor * v for v in values]", 1.0),
        ("    return [1.06 * factor * v for v in values]", 0.0),
        ("    return [-factor * v for v in values]", 0.0),
        ("    return [factor * v for v in values][:1]", 0.0),
        ("    return [float('nan') for v in values]", 0.0),
        ("    return factor", 0.0),
        ("    import os; os._exit(0)", 0.0),
        ("    raise SystemExit(0)", 0.0),
        ("    while True: pass", 0.0),
        ("    print('{}'); return " + RIGHT.strip()[7:], 1.0),
        ("    import atexit; atexit.register(print, '{}'); return []", 0.0),
        ("    return (", 0.0),
    ],
)
def test_how_near_is_near_enough(body: str, wanted: float, tmp_path: Path) -> None:
    env = environment(repository(tmp_path), seconds=2.0)
    task = env.proposer().draft_of(["work.py:scaled"], "t").task
    text = f"def scaled(values, factor):\n{body}\n"
    assert (
        value(env, task, calling(task, ("write_file", {"path": "work.py", "text": text}))) == wanted
    )


def test_nothing_beside_the_missing_bodies_counts(tmp_path: Path) -> None:
    env = environment(repository(tmp_path))
    task = env.proposer().draft_of(["work.py:scaled"], "t").task
    good = (
        "edit_file",
        {"path": "work.py", "old": "raise NotImplementedError", "new": RIGHT.strip()},
    )
    ruin = ("write_file", {"path": "run.py", "text": "print('nothing')"})
    gone = ("run", {"command": "rm run.py; mkdir -p x; echo > x/y"})
    for calls in ([good], [good, ruin], [gone, good]):
        assert value(env, task, calling(task, *calls)) == 1.0
    helper = "HELP = 3.0\ndef scaled(values, factor):\n    return [HELP * v for v in values]\n"
    assert (
        value(env, task, calling(task, ("write_file", {"path": "work.py", "text": helper}))) == 0.0
    )
    assert value(env, task, calling(task, ("run", {"command": "rm work.py"}))) == 0.0
    total = "def total(values):\n    return 6\n"
    other = total + "def scaled(values, factor):\n" + RIGHT
    assert (
        value(env, task, calling(task, ("write_file", {"path": "work.py", "text": other}))) == 1.0
    )


def test_an_original_that_fails_here_is_the_tasks_fault(tmp_path: Path) -> None:
    env = environment(repository(tmp_path))
    task = env.proposer().draft_of(["work.py:scaled"], "t").task
    research: Research = task.hidden["research"]
    files = {**research.source.files, "run.py": b"raise OSError('no such device')\n"}
    from dataclasses import replace

    broken = replace(research.source, files=files, contents="other")
    bad = replace(task, hidden={"research": replace(research, source=broken)})
    outcome = judged(env, bad, env.oracle(task))
    assert isinstance(outcome, Invalid)
    assert "no such device" in outcome.reason


def test_who_does_not_hand_in_earns_nothing() -> None:
    env = Experiment(ExperimentConfig(messages=1, seconds=10.0))
    task = one_of(env, 1)
    outcome = judged(env, task, env.oracle(task))
    assert isinstance(outcome, Scored)
    assert (outcome.value, outcome.evidence) == (0.0, "nothing was handed in: turns")


def test_messages_tokens_and_seconds_are_bounded() -> None:
    limits = Experiment(ExperimentConfig(messages=7, tokens=900, budget=60.0)).limits
    assert (limits.turns, limits.tokens, limits.seconds) == (7, 900, 6_000.0)
    with pytest.raises(ValueError, match="tokens is -1"):
        ExperimentConfig(tokens=-1)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    env = environment(repository(tmp_path, é_md="ä\n"))
    research = Research(env.proposer().source, ("work.py:scaled",))
    return Desk(research.given, env.lab(research.source), 10.0)


def test_tools(desk: Desk) -> None:
    assert "run.py  " in desk.list_files()
    assert desk.read_file("./run.py", 1, 1) == "import json, sys\n"
    assert desk.read_file("run.py", 2).startswith("from work import")
    assert desk.edit_file("work.py", "raise NotImplementedError", "return []") == "ok"
    assert '"scaled": []' in desk.run()
    assert "(exit 0, " in desk.run("mkdir -p a/b; echo hello > a/b/c; chmod +x a/b/c; rm run.py")
    assert desk.read_file("a/b/c") == "hello\n"
    assert "run.py" not in desk.files
    assert "-rwx" in desk.run("ls -l a/b")
    assert "exit 3" in desk.run("echo oops >&2; exit 3")
    assert "oops" in desk.run("echo oops >&2; exit 3")
    assert desk.read_file("é.md") == "ä\n"
    assert desk.left < 10.0


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("read_file", {"path": "nothing"}, "no file 'nothing'"),
        ("read_file", {"path": "../work.py"}, "no path in the repository"),
        ("read_file", {"path": "/etc/passwd"}, "no path in the repository"),
        ("read_file", {"path": "a/../../x"}, "no path in the repository"),
        ("read_file", {"path": "run.py", "first": 99}, "has 5 lines"),
        ("read_file", {"path": ""}, "no path in the repository"),
        ("write_file", {"path": "run.py/x", "text": ""}, "is a file and a folder"),
        ("write_file", {"path": "x" * 2000, "text": ""}, "no path in the repository"),
        ("write_file", {"path": "a\nb", "text": ""}, "no path in the repository"),
        ("edit_file", {"path": "run.py", "old": "nowhere", "new": ""}, "occurs 0 times"),
        ("edit_file", {"path": "run.py", "old": "seed", "new": ""}, "occurs 2 times"),
        ("edit_file", {"path": "run.py", "old": "", "new": ""}, "occurs 0 times"),
        ("run", {"command": "a\0b"}, "zero byte"),
    ],
)
def test_a_wrong_call_is_told(desk: Desk, tool: str, arguments: dict[str, Any], said: str) -> None:
    before = dict(desk.files)
    result = TOOLBOX.dispatch(ToolCall("c", tool, json.dumps(arguments)), desk)
    assert result.is_error
    assert said in result.parts[0].text  # type: ignore[union-attr]
    assert desk.files == before


def test_limits_of_running(desk: Desk) -> None:
    desk.left = 0.5
    assert re.search("limit of cpu|time limit", desk.run("python3 -c 'while True: pass'"))
    assert "no time is left" in _told(desk, "run")
    assert desk.submit() == "ok"


def test_what_floods_leaves_the_files_as_they_were(desk: Desk) -> None:
    before = dict(desk.files)
    flood = "for i in 1 2 3 4; do head -c 50000000 /dev/zero > b$i; done; rm run.py"
    assert "left as they were" in desk.run(flood)
    assert desk.files == before
    said = desk.run("yes | head -c 3000000")
    assert len(said) < 11_000
    assert "characters left out" in said
    assert set(before) == set(desk.files)


def _told(desk: Desk, tool: str) -> str:
    result = TOOLBOX.dispatch(ToolCall("c", tool, "{}"), desk)
    assert isinstance(result.parts[0], Text)
    return result.parts[0].text


def test_the_agent_sees_no_original(desk: Desk) -> None:
    """Nor may it read what the host has: the jail shows this repository's workspace alone."""
    seek = "grep -rIlF --include='*.py' --exclude-dir=proc {} / 2>/dev/null"
    gone, left = (
        [x for x in desk.run(seek.format(f"'{text}'")).splitlines() if x.startswith("/")]
        for text in ("factor * value for value", "result += value")
    )
    assert not gone
    assert "/box/work/work.py" in left  # the other function is there to be found
    here = Path(__file__).parent.parent.parent.parent
    assert "No such file" in desk.run(f"ls {here}/puna/envs")
    assert "exit 0" not in desk.run("python3 -c 'import puna.envs'")


def test_every_call_is_answered(tmp_path: Path) -> None:
    env = environment(repository(tmp_path))
    task = env.proposer().draft_of(["work.py:scaled"], "t").task
    session = env.start(task, None, None)
    assert isinstance(session, ToolLoop)
    turn = session.next()
    assert turn is not None
    calls = tuple(ToolCall(f"c{i}", "list_files", "{}") for i in range(20))
    session.take(turn, Message("assistant", (*calls[:3], ToolCall("s", "submit", "{}"), *calls)))
    answers = [m for m in session.messages if m.role == "tool"]
    assert [m.parts[0].id for m in answers] == ["c0", "c1", "c2", "s", *[c.id for c in calls]]  # type: ignore[union-attr]
    late = answers[-1].parts[0]
    assert isinstance(late, ToolResult)
    assert late.is_error
    assert session.next() is None


def test_clipped() -> None:
    assert clipped("x" * 50, 50) == "x" * 50
    assert clipped("a" * 40 + "b" * 40, 50).startswith("a" * 25 + "\n... 30 characters left out")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tasks": "/no/such/file"}, "no file of tasks"),
        ({"masked": 0}, "masked is 0, must be 1 to 5"),
        ({"messages": 0}, "messages is 0"),
        ({"seconds": 20.0, "budget": 10.0}, "budget no less"),
        ({"form": "loop"}, "form"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        load_environment("experiment", settings)


def test_a_file_that_holds_no_tasks(tmp_path: Path) -> None:
    for text, why in {
        "": "no admitted task",
        "words\n": "no admitted task",
        '{"draft": 1, "admission": {"admitted": true}}\n': "holds no tasks of this environment",
        '{"draft": {}, "admission": 7}\n': "holds no tasks of this environment",
    }.items():
        path = tmp_path / "tasks.jsonl"
        path.write_text(text)
        with pytest.raises(UserError, match=why):
            load_environment("experiment", {"tasks": str(path)})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("split", SPLITS)
def test_what_ships_is_what_is_proposed(split: str) -> None:
    """After a change of what ships: python -m puna.envs.experiment.ship."""
    kept = [json.loads(x) for x in (SHIPPED / f"{split}.jsonl").read_text().splitlines()]
    made = [json.loads(json.dumps(r)) for r in ship.records(split)]
    assert all(r["admission"]["admitted"] for r in made)
    for old, new in zip(kept, made, strict=True):
        golds = [numbers.parse(json.dumps(r["draft"].pop("gold"))) for r in (old, new)]
        assert numbers.compare(*golds, tolerance=1e-9).right
        assert {k: v for k, v in old.items() if k != "schema"} == new
