import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.report.alarms import alarms
from puna.report.curves import _by_minutes, bold_line, figure_of, series, thin_out
from puna.report.read import open_run


@given(st.integers(1, 2000), st.integers(1, 300))
def test_thinning_keeps_the_number_of_points_in_bounds(n, points):
    steps, values = thin_out((list(range(n)), [1.0] * n), points)
    assert len(steps) == len(values) <= points
    assert set(values) == {1.0}
    assert min(n, points) <= 2 * len(steps)
    assert steps == sorted(steps)


def test_the_mean_over_seeds_takes_common_steps_only():
    lines = [([1, 2, 3], [0.0, 1.0, 2.0]), ([2, 3, 4], [3.0, 4.0, 9.0])]
    assert bold_line(lines) == ([2, 3], [2.0, 3.0])


def test_a_single_line_is_smoothed_unless_marked():
    line = (list(range(80)), [float(i % 2) for i in range(80)])
    spread = max(bold_line([line])[1][5:-5]) - min(bold_line([line])[1][5:-5])
    assert spread < 0.4
    assert bold_line([line], smooth=False)[1] == line[1]


def test_panels_follow_the_page_and_do_not_share_ids(quickstart):
    run = open_run(quickstart)
    page = "".join(figure_of(s.id, [s]) for s in run.stages if s.kind != "eval")
    assert page.count("<svg") == 9
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert ids
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page))
    assert used <= set(ids)
    assert "currentColor" in page
    assert "var(--accent)" in page
    assert "<text" in page
    assert "<style" not in page
    assert "#0a0b0" not in page


def test_seeds_are_thin_lines_with_a_bold_mean(seeds):
    run = open_run(seeds)
    rl = [s for s in run.stages if s.kind == "rl"]
    both = figure_of("rl", rl), figure_of("rl", rl[:1])
    thin = [page.count("stroke-width: 0.8; ") or page.count("stroke-width: 0.8") for page in both]
    assert thin[0] > thin[1]


def test_figures_that_are_not_finite_are_left_out(writer):
    run = writer()
    run.sft(held_out=False)
    path = run.finish() / "sft" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 201, "loss": NaN}\n{"step": 202, "loss": 1e999}\n')
    stage = open_run(run.dir).stage("sft")
    assert math.isnan(stage.metrics[-2]["loss"])
    page = figure_of("sft", [stage])
    assert page.count("<svg") == 1
    assert "nan" not in page.lower().replace("nats", "")


def test_the_shadow_is_dashed_beside_the_reward_and_the_alarm_marked(writer):
    run = writer()
    run.rl()
    path = run.finish() / "rl" / "metrics.jsonl"
    plain = figure_of("rl", [open_run(run.dir).stage("rl")])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**r, "shadow": 0.1}) + "\n" for r in records))
    alarm = {"step": 7, "role": "agent", "sign": "gap", "level": "alarm", "text": "<b>"}
    notice = {**alarm, "sign": "length", "level": "notice", "step": 3}
    found = "".join(json.dumps(x) + "\n" for x in (alarm, notice, alarm))
    (path.parent / "alarms.jsonl").write_text(found)
    page = figure_of("rl", [open_run(run.dir).stage("rl")])
    assert "dashed: shadow" in page
    assert "dashed: shadow" not in plain
    assert page.count("stroke-dasharray") > plain.count("stroke-dasharray")
    assert page.count(">alarm<") == 1
    assert "var(--bad)" in page
    assert "var(--bad)" not in plain
    told = alarms(open_run(run.dir))
    assert told.index("length") < told.index("gap")
    assert told.count("&lt;b&gt;") == 2


def _times(record, factor):
    """A record with `minutes` so many times as many."""
    return record | {k: factor * v for k, v in record.items() if k == "minutes"}


def test_bits_per_byte_are_drawn_over_minutes_beside_the_best_baseline(writer):
    run = writer()
    run.pretrain()
    run.pretrain("slow")
    path = run.finish() / "pretrain" / "stage.json"
    stage = open_run(run.dir).stage("pretrain")
    slow = run.dir / "slow" / "metrics.jsonl"
    records = [json.loads(line) for line in slow.read_text().splitlines()]
    slow.write_text("".join(json.dumps(_times(record, 3)) + "\n" for record in records))
    other = open_run(run.dir).stage("slow")
    for seeds, wanted in (([stage], 0.5), ([stage, other], 1.0)):
        lines = _by_minutes(seeds)
        assert [bits for _, bits in lines] == [series(s, "bits_per_byte")[1] for s in seeds]
        assert bold_line(lines)[0] == pytest.approx([wanted * i for i in range(1, 7)])
    page = figure_of("pretrain", [stage])
    assert "bits per byte, by minutes (dashed: best baseline)" in page
    record = json.loads(path.read_text())
    record["result"]["bits_per_byte"] = {"model": 2.2}
    path.write_text(json.dumps(record))
    alone = figure_of("pretrain", [open_run(run.dir).stage("pretrain")])
    assert "by minutes" in alone
    assert "dashed" not in alone
    assert page.count("stroke-dasharray") > alone.count("stroke-dasharray")
