"""The viewer: curves, episodes with tokens and changes, two runs compared, audits."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from shop_run import write_shop_run

from puna.gym.audit.findings import Audit, Finding
from puna.gym.audit.records import keep
from puna.serve import browse


@pytest.fixture(scope="session")  # so that it is there before the browser and its event loop
def folder(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, the same with every task of its last eval solved, and the shop's."""
    there = tmp_path_factory.mktemp("viewed") / "runs"
    shutil.copytree(runs / "tiny", there / "tiny")
    shutil.copytree(runs / "tiny", there / "twin")
    (journal,) = (there / "twin" / "eval").glob("episodes-rl-*.jsonl")
    lines = [json.loads(text) for text in journal.read_text().splitlines()]
    for record in lines:
        for outcomes in record["outcomes"]:
            outcomes["agent"] |= {"value": 1.0, "success": True}
    journal.write_text("".join(json.dumps(record) + "\n" for record in lines))
    write_shop_run(there / "shop")
    return there


@pytest.fixture(scope="module")
def address(clerk: Path, folder: Path, start: Callable[..., Any]) -> Iterator[str]:
    with start(clerk, folder) as found:
        yield found


def open_journal(page: Any, address: str, run: str, n: int = 0) -> None:
    page.goto(f"{address}/runs#run/{run}/{quote('rl/episodes.jsonl', safe='')}/{n}")
    page.locator(".episode .verdict").wait_for()


def test_a_curve_tells_its_values(page: Any, address: str, folder: Path) -> None:
    page.goto(f"{address}/runs#run/tiny")
    curve = page.locator("figure", has_text="rl: reward")
    curve.locator("svg").scroll_into_view_if_needed()
    lines = (folder / "tiny/rl/metrics.jsonl").read_text().splitlines()
    rewards = {r["step"]: r["reward"] for r in map(json.loads, lines)}
    box = curve.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 10, box["y"] + box["height"] / 2)
    last, readout = max(rewards), curve.locator(".readout")
    assert readout.inner_text() == f"step {last}: {rewards[last]:.3g}"
    page.mouse.move(0, 0)
    assert readout.inner_text() == ""
    curve.locator("svg").focus()  # and by keyboard
    page.keyboard.press("ArrowLeft")
    assert readout.inner_text() == f"step {last - 1}: {rewards[last - 1]:.3g}"


def test_the_graph_names_stages_and_parents(laptop: Any, address: str) -> None:
    laptop.goto(f"{address}/runs#run/tiny")
    graph = laptop.locator("svg.graph")
    graph.wait_for()
    assert graph.locator(".stage").count() == 4
    assert graph.locator(".edge").count() == 5
    assert "eval from pretrain, sft, rl" in graph.get_attribute("aria-label")


def test_the_report_is_saved(laptop: Any, address: str, folder: Path) -> None:
    laptop.goto(f"{address}/runs#run/tiny")
    with laptop.expect_download() as got:
        laptop.get_by_text("save the report").click()
    kept = (folder / "tiny" / "report.html").read_bytes()
    assert Path(got.value.path()).read_bytes() == kept


def test_tokens_tell_how_probable_they_were(page: Any, address: str, folder: Path) -> None:
    open_journal(page, address, "tiny", 1)
    record = json.loads((folder / "tiny/rl/episodes.jsonl").read_text().splitlines()[1])
    (branch,) = record["branches"]["agent"]
    tokens = page.locator(".tokens .token")
    assert tokens.count() == len(branch["ids"])
    texts = tokens.all_text_contents()
    at = next(i for i, mask in enumerate(branch["mask"]) if mask and texts[i].strip())
    p = math.exp(branch["logprobs"][at])
    tokens.nth(at).hover()
    told = page.locator(".legend .readout").inner_text()
    assert f"p = {p:.3f}" in told or f"p = {p:.1e}".replace("e-0", "e-") in told
    tokens.nth(0).hover()
    assert "given" in page.locator(".legend .readout").inner_text()
    improbable = tokens.nth(at).evaluate("(e) => getComputedStyle(e).backgroundColor")
    given = tokens.nth(0).evaluate("(e) => getComputedStyle(e).backgroundColor")
    assert p < 0.5
    assert improbable != given


def test_what_an_episode_changed_and_why_it_earned_that(page: Any, address: str) -> None:
    open_journal(page, address, "shop")
    changed = page.locator("table.changes").first.inner_text()
    assert "delivered" in changed
    assert "returned" in changed
    assert page.locator("tr.removed .marked").first.inner_text() == "delivered"
    assert page.locator("tr.added .marked").first.inner_text() == "returned"
    calls = page.locator("details.call summary").all_inner_texts()
    assert any("verify(" in text and "→" in text for text in calls)  # the result stands within
    page.locator("ol.list button").nth(1).click()
    page.get_by_text("broke <b>verify</b>").wait_for()
    parts = page.locator("dl.parts")
    assert parts.locator("meter").first.get_attribute("value") == "0.5"
    assert "policy" in parts.inner_text()


def test_episodes_are_filtered(page: Any, address: str) -> None:
    open_journal(page, address, "shop")
    rows = page.locator("ol.list button")
    assert rows.count() == 2
    page.get_by_label("Outcome").select_option("failure")
    page.get_by_text("1 of 1").wait_for()
    assert rows.all_inner_texts()[0].startswith("step 2")
    page.get_by_label("Outcome").select_option("")
    page.get_by_text("2 of 2").wait_for()
    page.get_by_label("least value").fill("0.9")
    page.get_by_text("1 of 1").wait_for()
    assert rows.all_inner_texts()[0].startswith("step 1")
    page.get_by_label("least value").fill("")
    page.get_by_label("Text", exact=True).fill("BROKE <b>")
    page.get_by_text("1 found").wait_for()
    assert rows.all_inner_texts()[0].startswith("step 2")
    page.get_by_label("Text", exact=True).fill("nobody said this")
    page.get_by_text("no episode is like that").wait_for()
    assert rows.count() == 0


def test_episodes_by_keyboard(laptop: Any, address: str) -> None:
    open_journal(laptop, address, "shop")
    laptop.locator("ol.list button").first.focus()
    laptop.keyboard.press("ArrowDown")
    laptop.get_by_text("broke <b>verify</b>").wait_for()
    assert laptop.url.endswith("/1")


def test_a_large_journal_is_shown_while_it_is_read(
    laptop: Any, address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "SECONDS", -1.0)  # a line a request
    large = folder / "large"
    shutil.copytree(folder / "tiny", large)
    journal = large / "rl/episodes.jsonl"
    record = json.loads(journal.read_text().splitlines()[0])
    lines = [json.dumps({**record, "step": n, "key": [n]}) for n in range(1, 121)]
    journal.write_text("\n".join(lines) + "\n")
    open_journal(laptop, address, "large")
    rows = laptop.locator("ol.list button")
    assert rows.count() < 50
    assert "% of the file read" in laptop.locator("p[role=status]").inner_text()
    laptop.get_by_label("Outcome").get_by_text("all (120)").wait_for(state="attached")  # read on
    assert rows.count() < 50
    more = laptop.get_by_role("button", name="more")
    while more.is_visible():
        if more.is_enabled():
            more.click()
        laptop.wait_for_timeout(50)
    assert [int(t.split()[1]) for t in rows.all_inner_texts()] == list(range(1, 121))
    shutil.rmtree(large)


def test_two_runs_are_compared(page: Any, address: str) -> None:
    page.goto(f"{address}/runs")
    page.get_by_label("Run A").select_option("tiny")
    page.get_by_label("Run B").select_option("twin")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("over 16 tasks in common").wait_for()
    assert page.locator("strong.good").inner_text() == "better"
    assert "B ahead: 16 of 16 tasks" in page.locator("caption").first.inner_text()
    curve = page.locator("figure", has_text="rl: reward")
    assert curve.locator("path.line").count() == 2
    curve.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    told = curve.locator(".readout").inner_text()
    assert "tiny" in told
    assert "twin" in told
    page.get_by_label("Stage of A").select_option("sft")
    page.wait_for_url(re.compile("#compare/tiny/twin/sft/$"))
    page.get_by_label("Stage of B").select_option("pretrain")
    page.get_by_text("no difference shown").wait_for()


def test_runs_that_cannot_be_compared_say_why(laptop: Any, address: str) -> None:
    laptop.goto(f"{address}/runs#compare/tiny/shop")
    laptop.get_by_text(re.compile("^no stage of shop is finished")).wait_for()


def test_audits_tell_what_each_probe_saw(
    page: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNA_AUDITS", str(tmp_path / "audits"))
    seen, case = "<i>0.8</i> for silence", ("task 3: paid",)
    hole = Finding("idle", "nothing earns nothing", "hole", seen, "puna audit x", case, 0.8)
    fine = Finding("oracle", "the reference scores 1", "ok", "24 references")
    env = {"name": "leaky", "version": "1.0", "hash": "ab12"}
    place = keep(Audit("leaky", env, 12, 0, (fine, hole), {"terms": 2}))
    assert place is not None
    (place.parent / "broken-1.json").write_text("{")
    page.goto(f"{address}/runs#audits")
    page.get_by_text("1 records are of another version or broken").wait_for()
    assert "failed" in page.locator("tbody tr").first.inner_text()
    page.get_by_role("link", name="leaky").click()
    page.get_by_role("heading", name="Audit of leaky 1.0").wait_for()
    rows = page.locator("tbody tr").all_inner_texts()
    assert "24 references" in rows[0]
    assert "FAILED" in rows[1]
    assert "<i>0.8</i> for silence" in rows[1]
    page.get_by_text("how to see it again").click()
    page.get_by_text("task 3: paid").wait_for()
