"""The pages in a real Chromium: a person chats, compares two models, looks at a run's episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_person_chats(page: Any, server: str) -> None:
    page.goto(server)
    page.get_by_label("Your message", exact=True).fill("Cancel order 482.\nPlease.")
    page.get_by_role("button", name="Send").click()
    answer = page.locator("[data-model=model]").first
    answer.wait_for()
    page.get_by_role("button", name="Send").wait_for()  # the answer is complete
    assert answer.inner_text().strip()
    assert "Please." in page.locator(".turn.user .said").first.inner_text()
    assert page.get_by_label("Your message", exact=True).input_value() == ""


def test_an_example_is_one_click(page: Any, server: str) -> None:
    page.goto(server)
    chip = page.locator(".chips button").first
    said = chip.inner_text()
    chip.click()
    page.locator("[data-model=model]").first.wait_for()
    assert page.locator(".turn.user .said").first.inner_text() == said


def test_two_models_side_by_side(page: Any, runs: Path, start: Callable[..., Any]) -> None:
    with start(runs / "tiny", runs, home=runs / "tiny") as address:
        page.goto(address)
        page.locator("#beside option").nth(2).wait_for(state="attached")
        names = page.locator("#model option").all_inner_texts()
        assert len(names) >= 2
        page.locator("#model").select_option(names[0])
        page.locator("#beside").select_option(names[1])
        page.get_by_text("Settings").click()
        page.get_by_label("tokens").fill("8")
        page.get_by_label("Your message", exact=True).fill("1+1=")
        page.keyboard.press("Enter")
        for name in names[:2]:
            page.locator(f"[data-model='{name}']").wait_for()
        page.get_by_role("button", name="Send").wait_for()
        assert page.locator(".answers [data-model]").count() == 2


def test_text_of_a_model_is_never_markup(page: Any, server: str) -> None:
    page.goto(server)
    page.get_by_text("Settings").click()
    page.get_by_label("tokens").fill("16")  # the model makes a lot of markup
    page.get_by_label("Your message", exact=True).fill("<img src=x onerror=document.title='owned'>")
    page.keyboard.press("Enter")
    page.locator("[data-model=model]").first.wait_for()
    page.get_by_role("button", name="Send").wait_for()
    assert page.locator("main img").count() == 0
    assert "owned" not in page.title()


def test_a_run_its_curves_and_its_episodes(page: Any, server: str) -> None:
    page.goto(f"{server}/runs")
    page.get_by_text("not readable: broken").wait_for()
    page.locator(".cards a").first.click()
    page.locator("table tbody tr").first.wait_for()
    page.locator("figure svg").first.wait_for()
    page.locator("ul.files a").last.click()
    page.locator("ol.list button").first.wait_for()
    page.locator(".turn .said").first.wait_for()
    first = page.locator("dl.parts").inner_text()
    assert "agent" in first
    last = page.locator("ol.list button").last
    last.click()
    page.locator("ol.list button[aria-current]:not([data-n='0'])").wait_for()
    assert page.url.split("/")[-1] != "0"
    page.reload()  # the address leads back to the same episode
    page.locator(".turn .said").first.wait_for()


@pytest.mark.complains("404")  # so the browser itself reports the answer
def test_a_wrong_address_is_said(page: Any, server: str) -> None:
    page.goto(f"{server}/runs#run/none")
    page.get_by_role("alert").wait_for()
    page.get_by_role("link", name="all runs").click()
    page.locator(".cards a").first.wait_for()


def test_a_key_is_asked_for_and_kept(
    page: Any, clerk: Path, runs: Path, start: Callable[..., Any]
) -> None:
    with start(clerk, runs, key="sesame") as address:
        page.goto(f"{address}/?key=sesame")
        assert page.url == f"{address}/"
        page.locator("#model option").first.wait_for(state="attached")
        page.goto(f"{address}/runs")
        page.locator(".cards a").first.wait_for()
