"""Answers as they are written: whatever the pieces, nothing but our own colours is a sequence."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.agents.screen import Screen
from puna.core.messages import Image, Message, Reasoning, Text, ToolCall, ToolResult
from puna.core.printable import printable
from puna.gateway.asked import Said

PIECES = st.lists(
    st.builds(
        lambda text, thought: Said(text, thought),
        st.text(st.sampled_from("a\x1b[2J]\x9b;\n\r\x07\u202e"), max_size=4),
        st.text(st.sampled_from("b\x1b[0m\n"), max_size=3),
    )
)
COLOUR = re.compile("\x1b\\[[\\d]*m")


class Paper(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def on(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> tuple[Screen, Paper]:
    paper = Paper(terminal)
    monkeypatch.setattr("sys.stdout", paper)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen(), paper


@given(pieces=PIECES)
def test_pieces_of_a_sequence_do_not_make_one(pieces: list[Said]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for terminal in (False, True):
            screen, paper = on(patch, terminal)
            screen.begin()
            for said in pieces:
                screen.tell(said)
            screen.end()
            shown = COLOUR.sub("", paper.getvalue()) if terminal else paper.getvalue()
            assert printable(shown) == shown
            told = shown.replace("thought: ", "").replace("\n", "")
            wanted = "".join(printable(s.thought + s.text) for s in pieces).replace("\n", "")
            assert told == wanted


def test_each_kind_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, paper = on(monkeypatch, terminal=False)
    screen.begin("sft")
    calls = (ToolCall("1", "f", '{"a": 1}'), ToolCall("2", "g\x1b[2J", "{}"))
    for said in (Said(thought="h"), Said(thought="m"), Said("O"), Said("k"), Said(calls=calls)):
        screen.tell(said)
    screen.end()
    screen.note("nobody watches")
    assert paper.getvalue() == (
        'sft: thought: hm\nOk\ncall: f {"a": 1}\ncall: g\ufffd[2J {}\n'
    )  # fmt: skip


def test_messages_of_every_kind_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, paper = on(monkeypatch, terminal=False)
    call = ToolCall("1", "f", "{}")
    data = "data:image/png;base64," + "A" * 5000
    for message in (
        Message.system("Be brief."),
        Message("user", (Image("0", "image/png", "cat.png"), Image("", "", data), Text("what?"))),
        Message("assistant", (Reasoning("hm"), Text("Ok"), call)),
        Message("tool", (ToolResult("1", (Text("4\x07"),)),)),
        Message("assistant", ()),
    ):
        screen.message(message, "rl")
    assert paper.getvalue() == (
        "system: Be brief.\nuser: image: cat.png\nimage: data:image/png;base64,AAAAAAAA...\nwhat?\n"
        "rl: thought: hm\nOk\ncall: f {}\ntool: 4\ufffd\nrl: \n"
    )


@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False),
     (True, {"NO_COLOR": ""}, True), (True, {"TERM": "dumb"}, False)],
)  # fmt: skip
def test_colours_are_for_a_terminal_that_wants_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], coloured: bool
) -> None:
    on(monkeypatch, terminal)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen, paper = Screen(), Paper(terminal)
    monkeypatch.setattr("sys.stdout", paper)
    screen.tell(Said(thought="hm"))
    assert bool(COLOUR.search(paper.getvalue())) == coloured
    assert COLOUR.sub("", paper.getvalue()) == "thought: hm"
