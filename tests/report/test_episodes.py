import json

from puna.core.outcome import Infra, Scored, to_json
from puna.report.episodes import flipped, flips, solved, spread, text_of, verdict
from puna.report.read import open_run


def message(speaker, role, text):
    return {"speaker": speaker, "role": role, "parts": [{"kind": "text", "text": text}]}


def lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def record(task, *successes):
    outcomes = [{"agent": to_json(Scored(float(s), s))} for s in successes]
    told = [message("env", "user", "1+1="), message("agent", "assistant", "2")]
    return {"index": task, "task": f"t{task}", "outcomes": outcomes, "transcripts": [told]}


def test_solved_means_every_time_and_failed_never():
    assert solved(record(0, True, True)) is True
    assert solved(record(0, False, False)) is False
    assert solved(record(0, True, False)) is None
    assert solved({"outcomes": [{"agent": to_json(Infra("down"))}]}) is None


def test_flips_both_ways(tmp_path):
    before, after = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines(before, [record(0, False), record(1, True), record(2, True), record(3, False)])
    lines(after, [record(0, True), record(1, False), record(2, True), record(4, True)])
    better, worse, n = flipped(before, after)
    assert [p[0]["task"] for p in better] == ["t0"]
    assert [p[0]["task"] for p in worse] == ["t1"]
    assert n == 3


def test_the_last_stage_is_set_against_the_one_before(quickstart):
    page = flips(open_run(quickstart))
    assert "Failed by sft, solved by rl" in page
    assert "pretrain" not in page


def test_without_episodes_there_is_no_section(quickstart):
    for path in (quickstart / "eval").glob("episodes-*"):
        path.unlink()
    assert flips(open_run(quickstart)) == ""


def test_text_of_every_kind_of_part():
    parts = [
        {"kind": "reasoning", "text": "hm"},
        {"kind": "text", "text": "so"},
        {"kind": "tool_call", "id": "1", "name": "add", "arguments": '{"a": 1}'},
        {"kind": "tool_result", "id": "1", "parts": [{"kind": "text", "text": "2"}]},
        {"kind": "image", "sha256": "ab" * 32, "mime": "image/png"},
        "broken",
    ]
    assert text_of({"parts": parts}).split("\n") == [
        "[thinks] hm",
        "so",
        '[calls add] {"a": 1}',
        "[result] 2",
        "[image image/png abababababab]",
        "",
    ]


def test_verdicts():
    assert "solved" in verdict(to_json(Scored(1.0, True)))
    assert "failed" in verdict(to_json(Scored(0.25, False, evidence="said <3>")))
    assert "said &lt;3&gt;" in verdict(to_json(Scored(0.25, False, evidence="said <3>")))
    assert "infra: down" in verdict(to_json(Infra("down")))
    assert "no outcome" in verdict({})


def test_spread_keeps_first_and_last():
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread(range(100), 4) == [0, 33, 66, 99]
