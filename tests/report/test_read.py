import json

import pytest

from puna.core.errors import UserError
from puna.report.read import group_of, open_run


@pytest.mark.parametrize(
    ("name", "group", "seed"),
    [
        ("rl", "rl", None),
        ("rl@seed=1", "rl", 1),
        ("rl@seed=-1,lr=0.1", "rl@lr=0.1", -1),
        ("rl@lr=0.1,seed=2", "rl@lr=0.1", 2),
        ("rl@seed=1.2", "rl.2", 1),
        ("rl@lr=0.1", "rl@lr=0.1", None),
        ("seed=1", "seed=1", None),
    ],
)
def test_a_group_is_an_id_without_its_seed(name, group, seed):
    assert group_of(name) == (group, seed)


def test_a_resumed_step_counts_once(quickstart):
    path = quickstart / "rl" / "metrics.jsonl"
    with path.open("a") as f:
        f.write(json.dumps({"step": 120, "reward": 9.0}) + "\n" + '{"step": 121, "rew')
    metrics = open_run(quickstart).stage("rl").metrics
    assert [m["step"] for m in metrics] == list(range(1, 121))
    assert metrics[-1]["reward"] == 9.0


def test_states_and_figures_of_an_unfinished_stage(writer):
    run = writer()
    run.pretrain()
    run.sft(done=False)
    run.planned("rl", "rl", ["sft"])
    stages = open_run(run.finish()).stages
    assert [s.state for s in stages] == ["done", "unfinished", "waiting"]
    sft = stages[1]
    assert (sft.figure("steps"), sft.figure("tokens")) == (200, 800_000)
    assert sft.figure("cpu_seconds") == pytest.approx(60)


def test_settings_tell_environments_of_one_name_apart(writer):
    run = writer()
    run.pretrain()
    run.eval("eval", {"pretrain": 0.5})
    path = run.finish() / "eval" / "stage.json"
    record = json.loads(path.read_text())
    record["config"]["envs"] = [{"id": "arithmetic", "terms": 2}, {"id": "arithmetic", "terms": 5}]
    other = {**record["result"]["scores"][0], "env": {"name": "arithmetic", "hash": "5" * 64}}
    record["result"]["scores"].append(other)
    path.write_text(json.dumps(record))
    exams = open_run(run.dir).exams
    assert [e.env for e in exams] == ["arithmetic (terms 2) 1.0", "arithmetic (terms 5)"]
    assert [e.journal.name for e in exams] == [
        "episodes-pretrain-arithmetic.jsonl",
        "episodes-pretrain-arithmetic-55555555.jsonl",
    ]


def test_why_a_stage_failed_and_that_it_was_tried_again(writer):
    run = writer()
    run.planned("sft", "sft", [])
    run.finish()
    path, said = run.dir / "journal.jsonl", []
    for record in ({"event": "start"}, {"event": "failed", "error": "no rows"}, {"event": "start"}):
        with path.open("a") as f:
            f.write(json.dumps({"stage": "sft", **record}) + "\n")
        (stage,) = open_run(run.dir).stages
        said.append((stage.state, stage.error))
    assert said == [("unfinished", ""), ("failed", "no rows"), ("unfinished", "")]


def test_of_several_roles_the_first_stands_for_its_environment(writer):
    run = writer()
    run.pretrain()
    run.sft()
    run.eval("eval", {"pretrain": 0.1, "sft": 0.5})
    path = run.finish() / "eval" / "stage.json"
    record, alone = json.loads(path.read_text()), open_run(run.dir)
    for key in ("scores", "differences"):
        rows = record["result"][key]
        record["result"][key] = [{**r, "role": role} for r in rows for role in ("guesser", "host")]
    path.write_text(json.dumps(record))
    both = open_run(run.dir)
    assert both.exams == alone.exams
    assert [(c.before, c.to) for c in both.compared] == [("pretrain", "sft")]


def test_broken_files_are_passed_over(quickstart):
    (quickstart / "run.json").write_text("{")
    (quickstart / "sft" / "stage.json").write_text("[1]")
    (quickstart / "eval" / "stage.json").write_text('{"kind": "eval", "result": {"scores": 3}}')
    run = open_run(quickstart)
    assert {s.id: s.state for s in run.stages} == {
        "eval": "done",
        "pretrain": "done",
        "rl": "done",
        "sft": "unfinished",
    }
    assert run.exams == ()


def test_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="no run in"):
        open_run(tmp_path / "absent")
