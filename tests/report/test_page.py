import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest

from puna.core.errors import UserError
from puna.report.page import write_report

VOID = {"meta"}
HOSTILE = '<script>alert("x")</script>&<b>\x00\x1b[31m\ud800\u202e</pre></details>'


class Outline(HTMLParser):
    """Elements of a page, refusing tags that do not nest."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.urls, self.text, self.headings = [], [], [], "", []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.urls += [v for k, v in attributes if k in ("src", "href", "xlink:href", "action")]
        assert not [k for k, _ in attributes if k.startswith("on")]
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.tags.append(name)
        self.urls += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read(run_dir):
    return write_report(run_dir).read_text(encoding="utf-8")


def test_the_sections_of_a_finished_run(quickstart):
    outline = Outline(read(quickstart))
    assert outline.headings == [
        "Lineage",
        "Curves",
        "Bits per byte",
        "Scores by tag",
        "One task that flipped",
        "What it wrote as it learned",
        "Sample episodes",
        "What was not scored",
        "Settings",
        "How to reproduce",
    ]
    assert "rl raised the score on arithmetic 1.0" in outline.text
    assert "Nothing: all 15,960 episodes were scored." in outline.text


def test_the_page_stands_alone(quickstart):
    page = read(quickstart)
    outline = Outline(page)
    assert all(url.startswith("#") for url in outline.urls)
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert str(quickstart) not in page


def test_what_models_and_tasks_say_stays_text(writer):
    run = writer(title="T" + HOSTILE)
    run.pretrain(hostile=HOSTILE)
    run.sft()
    run.rl(hostile=HOSTILE)
    run.eval("eval", {"sft": 0.5, "rl": 0.7}, hostile=HOSTILE, infra=3)
    run.plan[0]["note"] = HOSTILE
    outline = Outline(read(run.finish()))
    assert not {"script", "b"} & set(outline.tags)
    assert outline.text.count('<script>alert("x")</script>') > 20
    assert not re.search("[\x00\x1b\u202e]", outline.text)


def test_hostile_names_of_stages_tags_and_environments(writer):
    run = writer()
    name = 'rl@note="><script>1</script>'.replace("/", "|")
    run.sft("sft", "x")
    run.rl(name, "sft")
    run.eval("eval", {"sft": 0.5, name: 0.7})
    path = run.finish() / "eval" / "stage.json"
    record = json.loads(path.read_text())
    for score in record["result"]["scores"]:
        score["env"]["version"] = HOSTILE
        score["by_tag"] = {HOSTILE: score["score"]}
    record["weights"] = HOSTILE
    path.write_text(json.dumps(record))
    assert "script" not in Outline(read(run.dir)).tags


def test_an_unfinished_run_has_a_report(writer):
    run = writer()
    run.pretrain()
    run.sft(done=False)
    run.planned("rl", "rl", ["sft"])
    run.planned("eval", "eval", ["sft", "rl"])
    outline = Outline(read(run.finish()))
    assert "This run is not finished: 1 of 4 stages are done" in outline.text
    assert "sft (unfinished), rl (waiting), eval (waiting)" in outline.text


def test_why_a_stage_failed_is_said(writer):
    run = writer()
    run.pretrain()
    run.planned("sft", "sft", ["pretrain"])
    run.planned("eval", "eval", ["sft"])
    run.finish()
    failed = {"stage": "sft", "event": "failed", "error": f"loss is nan at step 7 {HOSTILE}"}
    (run.dir / "journal.jsonl").write_text(json.dumps(failed) + "\n")
    outline = Outline(read(run.dir))
    assert "left: sft (failed: loss is nan at step 7 " in outline.text
    assert "eval (waiting)" in outline.text
    assert not {"script", "b"} & set(outline.tags)
    with (run.dir / "journal.jsonl").open("a") as f:
        f.write(json.dumps({"stage": "sft", "event": "start"}) + "\n")
    again = Outline(read(run.dir)).text
    assert "left: sft (unfinished), eval (waiting)" in again
    assert "loss is nan" not in again


def test_a_run_that_has_hardly_begun(writer):
    run = writer()
    run.planned("pretrain", "pretrain", [])
    outline = Outline(read(run.finish()))
    assert outline.headings == ["Lineage", "Settings", "How to reproduce"]


@pytest.mark.parametrize(
    "gone", ["metrics.jsonl", "episodes*.jsonl", "samples.jsonl", "stage.json", "../run.json"]
)
def test_any_file_may_be_missing(seeds, gone):
    whole = read(seeds)
    for path in {p.resolve() for p in seeds.glob(f"*/{gone}")}:
        path.unlink()
    page = read(seeds)
    Outline(page)
    assert page != whole


def test_a_stage_directory_may_be_missing(quickstart):
    shutil.rmtree(quickstart / "sft")
    assert "sft (waiting)" in Outline(read(quickstart)).text


def test_the_same_run_gives_the_same_bytes(quickstart):
    first = read(quickstart)
    code = "import sys; from pathlib import Path; from puna.report.page import write_report; "
    code += "write_report(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(quickstart)], check=True)
    assert (quickstart / "report.html").read_text(encoding="utf-8") == first


def test_a_page_is_small_and_soon_written(quickstart):
    write_report(quickstart)
    begun = time.process_time()
    path = write_report(quickstart)
    assert time.process_time() - begun < 3
    assert path.stat().st_size < 300_000


def test_neither_matplotlib_nor_torch_is_loaded_by_the_import():
    code = "import puna.report.page, puna.report.terminal, sys; "
    code += "sys.exit(bool({'matplotlib', 'torch', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_run_no_report(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
