"""Whatever a model writes is text: it runs nothing, loads nothing, turns nothing around."""

from __future__ import annotations

from typing import Any

import pytest
from chromium import Told
from test_chat_page import complete, said, say

HOSTILE = """<script>window.owned = 1</script><img src=x onerror="window.owned = 2">

<iframe src="https://example.com"></iframe> <svg onload="window.owned = 3">

[click](javascript:window.owned=4) [page](data:text/html,<script>window.owned=5</script>)
[tab](\tjavascript:window.owned=6) [case](JaVaScRiPt:window.owned=7) [file](file:///etc/passwd)

![picture](https://example.com/pixel.png?secret) [mine](https://example.com/a "title")
<https://example.com/b> https://example.com/c. [https://bank.example](https://evil.example/)

| a | <b>x</b> |
|---|---|
| `<u>` | [z](javascript:window.owned=8) |
"""


def test_nothing_that_a_model_writes_is_run_or_loaded(page: Any, told: Told) -> None:
    told.answer(*[HOSTILE[i : i + 7] for i in range(0, len(HOSTILE), 7)])
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(told.address)
    say(page, "<img src=x onerror='window.owned=9'>")
    complete(page)
    answer = page.locator(".turn.model .said")
    for tag in ("script", "img", "iframe", "svg", "b", "u"):
        assert page.locator(f"main {tag}").count() == 0, tag
    for label in ("click", "page", "tab", "case", "file", "z"):
        assert page.locator("main a", has_text=label).count() == 0, label
        assert page.locator(".inert", has_text=label).count() >= 1, label
    links = answer.locator("a").evaluate_all("(all) => all.map((a) => [a.href, a.rel, a.target])")
    assert [href for href, _, _ in links] == [
        "https://example.com/",
        "https://example.com/pixel.png?secret",
        "https://example.com/a",
        "https://example.com/b",
        "https://example.com/c",
        "https://evil.example/",
    ]
    assert all("noopener" in rel and target == "_blank" for _, rel, target in links)
    assert "(evil.example)" in answer.inner_text()  # a label cannot pose as an address
    for inert in page.locator(".inert").all():
        inert.click()
    assert page.evaluate("window.owned") is None
    assert page.url.rstrip("/") == told.address
    assert [url for url in asked if not url.startswith((told.address, "data:"))] == []


@pytest.mark.complains("Content Security Policy")  # so the browser reports what it refused
def test_the_policy_of_the_pages_refuses_markup_that_got_in(laptop: Any, told: Told) -> None:
    laptop.goto(told.address)
    laptop.evaluate(
        """document.getElementById("talk").innerHTML =
           "<img src='data:,' onerror='window.owned=1'><img src='https://example.com/p.png'>" """
    )
    laptop.evaluate(
        """{ const s = document.createElement("script"); s.textContent = "window.owned = 2";
             document.body.append(s); }"""
    )
    laptop.wait_for_timeout(200)
    assert laptop.evaluate("window.owned") is None


def test_characters_that_turn_text_around_are_named(page: Any, told: Told) -> None:
    turned = "pay \u202eevil\u202c and \u2066isolated\u2069, \x1b[2J\x00 `code \u202e`"
    told.answer(turned)
    page.goto(told.address)
    say(page, "a\u202eb")
    complete(page)
    (answer,) = said(page)
    for mark in ("U+202E", "U+202C", "U+2066", "U+2069", "U+001B", "U+0000"):
        assert mark in answer
    assert page.locator(".turn.user .said").inner_text() == "aU+202Eb"
    assert not set("\u202e\u202c\u2066\u2069\x1b\x00") & set(page.locator("main").inner_text())
    boxes = page.locator(".said").evaluate_all(
        "(all) => all.map((e) => getComputedStyle(e).unicodeBidi)"
    )
    assert set(boxes) == {"isolate"}


KINDS = {
    "one line": "x" * 1_000_000,
    "lines": "0123456789 some words of a line that is not long at all, again\n" * 16_000,
    "paragraphs": "**bold** text with `code` and a [link](https://example.com)\n\n" * 16_000,
    "a code block": "```py\n" + "print('a line of code that goes on')\n" * 27_000 + "```\n",
    "openings": "[" * 300_000 + "*" * 300_000 + "`" * 300_000 + "_a" * 50_000,
    "quotes in quotes": "> " * 5_000 + "deep\n" + "- " * 5_000 + "deep\n",
    "a table": "|a|b|\n|-|-|\n" + "|cell|cell|\n" * 40_000,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_is_shown_and_the_page_still_answers(laptop: Any, told: Told, kind: str) -> None:
    text = KINDS[kind]
    told.answer(*[text[i : i + 1000] for i in range(0, len(text), 1000)])
    told.answer("short")
    laptop.goto(told.address)
    laptop.evaluate(
        """{ window.longest = 0; let last = performance.now();
             setInterval(() => { const now = performance.now();
               window.longest = Math.max(window.longest, now - last); last = now; }, 10); }"""
    )
    say(laptop, "at length")
    complete(laptop)
    shown = laptop.evaluate("document.querySelector('.turn.model .said').textContent.length")
    bare = text.replace("```py", "").replace("```", "").replace("\n", "")
    assert shown > 0.2 * len(bare) if kind in ("paragraphs", "a table") else shown > 0.9 * len(bare)
    assert laptop.evaluate("window.longest") < 3000, "the page stood still"
    say(laptop, "and on")
    complete(laptop, 2)
    assert said(laptop)[1] == "short"


def test_what_is_complete_is_not_made_again(laptop: Any, told: Told) -> None:
    told.answer("# One\n\nfirst *block*\n\n", 0.3, "- a\n- b", 0.3, "\n- c\n\n", 0.3, "last")
    laptop.goto(told.address)
    say(laptop, "hello")
    laptop.locator(".turn.model h3").wait_for()
    laptop.evaluate("document.querySelector('.turn.model h3').kept = true")
    complete(laptop)
    assert laptop.evaluate("document.querySelector('.turn.model h3').kept")
    assert laptop.locator(".turn.model li").all_inner_texts() == ["a", "b", "c"]


MARKDOWN = """# Title

A **bold** and *slanted* `a*b*c` ~~gone~~ snake_case_name 2 * 3 * 4 \\*plain\\*.

1. one
2. two
   - inner `x`

> quoted
> text

| n | v |
|---|--:|
| a | 1 |
| b \\| c | 2 |

```python
if a < b:
    print("**not bold**")
```
after
"""


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_markdown_is_the_same_however_it_comes(laptop: Any, told: Told, size: int) -> None:
    told.answer(*[MARKDOWN[i : i + size] for i in range(0, len(MARKDOWN), size)])
    laptop.goto(told.address)
    say(laptop, "hello")
    complete(laptop)
    box = laptop.locator(".turn.model .said")

    def texts(selector: str) -> list[str]:
        return [t.strip() for t in box.locator(selector).all_text_contents()]

    assert texts("h3") == ["Title"]
    assert texts("strong") == ["bold"]
    assert texts("em") == ["slanted"]
    assert texts("s") == ["gone"]
    assert texts("p code") == ["a*b*c"]
    assert "snake_case_name 2 * 3 * 4 *plain*." in box.inner_text()
    assert box.locator("ol > li").count() == 2
    assert texts("ol > li li") == ["inner x"]
    assert texts("blockquote") == ["quoted\ntext"]
    assert texts("td") == ["a", "1", "b | c", "2"]
    assert texts("pre") == ['if a < b:\n    print("**not bold**")']
    assert texts(".language") == ["python"]
    assert texts("p")[-1] == "after"
