"""The chat page: branches, stopping, images, tools, keys of the keyboard, export."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from chromium import Told

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def say(page: Any, text: str) -> None:
    page.get_by_label("Your message", exact=True).fill(text)
    page.keyboard.press("Enter")


def complete(page: Any, answers: int = 1) -> None:
    """Wait until so many answers are shown and nothing is being said."""
    page.locator(".turn.model").nth(answers - 1).wait_for()
    page.locator("#send", has_text="Send").wait_for()
    assert page.locator(".turn.model").count() == answers


def said(page: Any) -> list[str]:
    return [t.strip() for t in page.locator(".turn.model .said").all_inner_texts()]


def roles(body: dict[str, Any]) -> list[str]:
    return [m["role"] for m in body["messages"]]


def test_a_second_answer_stands_beside_the_first(page: Any, told: Told) -> None:
    told.answer("first")
    told.answer("second")
    told.answer("after the first")
    page.goto(told.address)
    say(page, "hello")
    complete(page)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("2 / 2").wait_for()
    complete(page)
    assert said(page) == ["second"]
    assert told.asked[0]["messages"] == told.asked[1]["messages"]  # not its own first answer
    page.get_by_role("button", name="Earlier version").click()
    assert said(page) == ["first"]
    say(page, "go on")
    complete(page, 2)
    assert [m["content"] for m in told.asked[2]["messages"]] == ["hello", "first", "go on"]
    page.get_by_role("button", name="Later version").click()
    assert said(page) == ["second"]  # what followed the first is not shown
    page.get_by_role("button", name="Earlier version").click()
    assert said(page) == ["first", "after the first"]


def test_an_edited_question_keeps_the_old_one(page: Any, told: Told) -> None:
    for text in ("a", "b", "c"):
        told.answer(text)
    page.goto(told.address)
    say(page, "one")
    complete(page)
    say(page, "two")
    complete(page, 2)
    page.get_by_role("button", name="Edit").first.click()
    box = page.get_by_label("Edit your message")
    assert box.input_value() == "one"
    box.fill("changed")
    page.keyboard.press("Enter")
    page.get_by_text("2 / 2").wait_for()
    complete(page)
    assert said(page) == ["c"]
    assert told.asked[2]["messages"] == [{"role": "user", "content": "changed"}]
    page.get_by_role("button", name="Earlier version").click()
    assert said(page) == ["a", "b"]
    assert page.locator(".turn.user .said").all_inner_texts() == ["one", "two"]


def test_stopping_keeps_what_was_said(page: Any, told: Told) -> None:
    told.answer("half of", *[0.05, " it"] * 200)
    told.answer("fine")
    page.goto(told.address)
    say(page, "tell me")
    page.get_by_text("half of").wait_for()
    page.keyboard.press("Escape")
    complete(page)
    assert "stopped" in said(page)[0]
    say(page, "on")
    complete(page, 2)
    kept = told.asked[1]["messages"][1]
    assert kept["role"] == "assistant"
    assert kept["content"].startswith("half of")
    assert told.left[0] < 200  # the server was told, too
    assert page.get_by_role("status").inner_text() == "answer complete"


def test_the_system_prompt_the_stage_and_the_settings_are_sent(page: Any, told: Told) -> None:
    told.answer("yes")
    told.answer("also")
    page.goto(told.address)
    page.get_by_text("Settings").click()
    page.get_by_label("system prompt").fill("Be brief.")
    page.get_by_label("temperature").fill("0.5")
    page.get_by_label("tokens").fill("7")
    page.locator("#model").select_option("two")
    say(page, "hello")
    complete(page)
    body = told.asked[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("two", 0.5, 7)
    page.locator("#model").select_option("one")  # the other stage goes on where this one was
    say(page, "and you?")
    complete(page, 2)
    assert told.asked[1]["model"] == "one"
    assert roles(told.asked[1]) == ["system", "user", "assistant", "user"]


def test_keys(page: Any, told: Told) -> None:
    told.answer("a")
    told.answer("b")
    page.goto(told.address)
    box = page.get_by_label("Your message", exact=True)
    box.fill("line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert box.input_value() == "line\ntwo"
    assert told.asked == []
    page.keyboard.press("Enter")
    complete(page)
    box.focus()
    page.keyboard.press("ArrowUp")
    assert page.get_by_label("Edit your message").input_value() == "line\ntwo"
    page.keyboard.press("Escape")
    assert page.get_by_label("Edit your message").count() == 0
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Control+a")
    page.keyboard.type("again")
    page.keyboard.press("Enter")
    page.get_by_text("2 / 2").wait_for()
    complete(page)
    assert told.asked[1]["messages"][0]["content"] == "again"
    page.keyboard.press("Tab")  # focus is seen wherever it goes
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_tool_calls_are_folded_and_their_results_sent(page: Any, told: Told) -> None:
    first = {"index": 0, "id": "call_7", "function": {"name": "look", "arguments": '{"id"'}}
    rest = {"index": 0, "function": {"arguments": ": 31}"}}
    told.answer("I look.", {"tool_calls": [first]}, {"tool_calls": [rest]})
    told.answer("It has gone.")
    page.goto(told.address)
    page.get_by_text("Settings").click()
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    page.get_by_label("tools").fill(json.dumps(tools))
    say(page, "where is it?")
    complete(page)
    assert told.asked[0]["tools"] == tools
    block = page.locator("details.call")
    assert 'look({"id": 31})' in block.locator("summary").inner_text()
    assert not block.locator("pre").first.is_visible()
    block.locator("summary").click()
    block.get_by_label("Result of look").fill("shipped <b>today</b>")
    block.get_by_role("button", name="Give result").click()
    complete(page, 2)
    sent = told.asked[1]["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"id": 31}'}
    answer = {"role": "tool", "tool_call_id": "call_7", "content": "shipped <b>today</b>"}
    assert sent[2] == answer
    assert "shipped <b>today</b>" in block.locator("summary").inner_text()
    assert block.get_by_label("Result of look").count() == 0


def test_a_call_is_answered_in_words_or_by_its_result(laptop: Any, told: Told) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "look", "arguments": "{}"}}
    told.answer({"tool_calls": [call]})
    told.answer("as you say")
    told.answer("by the result")
    laptop.goto(told.address)
    say(laptop, "where is it?")
    complete(laptop)
    say(laptop, "never mind")
    complete(laptop, 2)
    laptop.locator("details.call summary").click()
    laptop.get_by_label("Result of look").fill("gone")
    laptop.get_by_role("button", name="Give result").click()
    laptop.get_by_text("2 / 2").wait_for()
    complete(laptop, 2)
    assert said(laptop)[1] == "by the result"
    assert roles(told.asked[2]) == ["user", "assistant", "tool"]
    laptop.get_by_role("button", name="Earlier version").click()
    assert said(laptop)[1] == "as you say"
    laptop.get_by_role("button", name="Later version").click()
    assert said(laptop)[1] == "by the result"


def test_tools_that_are_no_json_are_said_and_not_sent(page: Any, told: Told) -> None:
    page.goto(told.address)
    page.get_by_text("Settings").click()
    page.get_by_label("tools").fill("[{")
    say(page, "hello")
    assert "tools are not JSON" in page.get_by_role("alert").inner_text()
    assert told.asked == []


def test_images_are_attached_shown_and_sent(page: Any, told: Told, tmp_path: Path) -> None:
    told.answer("a dot")
    told.answer("words")
    page.goto(told.address)
    (tmp_path / "dot.png").write_bytes(PNG)
    (tmp_path / "note.txt").write_text("no image")
    page.locator("#files").set_input_files([tmp_path / "dot.png", tmp_path / "note.txt"])
    page.get_by_alt_text("dot.png").wait_for()
    assert "note.txt: not a PNG" in page.get_by_role("alert").inner_text()
    for event in ("paste", "drop"):
        page.evaluate(
            """([event, data]) => {
              const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
              const given = new DataTransfer();
              given.items.add(new File([bytes], event + ".png", { type: "image/png" }));
              const carrier = event === "paste" ? "clipboardData" : "dataTransfer";
              document.getElementById("text").dispatchEvent(new (event === "paste"
                ? ClipboardEvent : DragEvent)(event, { bubbles: true, cancelable: true,
                  [carrier]: given }));
            }""",
            [event, base64.b64encode(PNG).decode()],
        )
        page.get_by_alt_text(f"{event}.png").wait_for()
    page.get_by_role("button", name="Remove drop.png").click()
    say(page, "what is it?")
    complete(page)
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": "what is it?"}
    assert told.asked[0]["messages"] == [{"role": "user", "content": [image, image, text]}]
    assert page.locator(".turn.user img").count() == 2
    assert page.locator("#thumbs img").count() == 0
    say(page, "and now?")  # they are sent once, and stay in what was said
    complete(page, 2)
    assert told.asked[1]["messages"][-1] == {"role": "user", "content": "and now?"}


def test_a_conversation_is_exported(page: Any, told: Told, tmp_path: Path) -> None:
    told.answer("`code` and ", "**more**")
    page.goto(told.address)
    page.get_by_text("Settings").click()
    page.get_by_label("system prompt").fill("Be brief.")
    say(page, "hello")
    complete(page)
    page.get_by_text("Export").click()
    with page.expect_download() as got:
        page.get_by_role("button", name="JSON messages").click()
    wanted = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "`code` and **more**"},
    ]
    assert json.loads(Path(got.value.path()).read_text()) == {"model": "one", "messages": wanted}
    assert got.value.suggested_filename == "conversation.json"
    with page.expect_download() as got:
        page.get_by_role("button", name="Markdown").click()
    text = Path(got.value.path()).read_text()
    assert text == ("## System\n\nBe brief.\n\n## User\n\nhello\n\n## one\n\n`code` and **more**\n")


def test_a_link_never_submits_a_prompt(laptop: Any, told: Told) -> None:
    for tail in ("?q=hello", "?prompt=hello&submit=1", "#hello", "?text=hello#ask"):
        laptop.goto(f"{told.address}/{tail}")
        laptop.locator("#model option").first.wait_for(state="attached")
        laptop.get_by_text("scripted").wait_for()
        assert laptop.get_by_label("Your message", exact=True).input_value() == ""
    assert told.asked == []


def test_an_answer_that_breaks_off_is_said(laptop: Any, told: Told) -> None:
    told.answer("good")
    laptop.goto(told.address)
    laptop.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, body='data: {"choices": []}\n\n'),
        times=1,
    )
    say(laptop, "hello")
    complete(laptop)
    assert "broke off" in laptop.get_by_role("alert").inner_text()
    say(laptop, "again")
    complete(laptop, 2)
    assert roles(told.asked[0]) == ["user", "user"]  # what failed is no answer
