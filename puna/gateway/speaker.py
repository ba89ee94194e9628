"""From sampled tokens to what is told of them, at a few microseconds a token.

`speaker = Speaker(tokenizer, asked)`; `speaker.hear(id, logprob)`, then `speaker.say()` -> `Said`.
What is told piece by piece joins to what `parse_assistant` makes of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.core.messages import Message, Text
from puna.gateway.asked import Asked, Choice, Drawn, Said
from puna.text.calls import final_calls, may_begin
from puna.text.template import parse_assistant, signs

_HALF = "\ufffd"  # bytes that make no character, or none yet
_WINDOW = 32  # ids, where they never make a character


class Growing:
    """Text of ids that come one by one: `add(id)` returns what is new and will not change.

    Only a window of the last ids is decoded: those of the last whole characters, before which
    nothing changes, and those that make no character yet.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._told = 0  # characters of the window's text
        self._known = 0  # ids of the window whose text is told

    def add(self, token: int) -> str:
        """What `token` adds, and what waited for it."""
        ids = self._ids
        ids.append(token)
        text: str = self._tokenizer.decode(ids, skip_special=False)
        if text.endswith(_HALF):
            return self._unfinished(text)
        new = text[self._told :]
        del ids[: self._known]
        self._known = len(ids)
        self._told = len(self._tokenizer.decode(ids, skip_special=False))
        return new

    def _unfinished(self, text: str) -> str:
        end = len(text.rstrip(_HALF))
        if len(self._ids) > _WINDOW:  # what never makes a character is told, but for the last
            head, tail = self._ids[:-8], self._ids[-8:]
            before = self._tokenizer.decode(head, skip_special=False)
            if before + self._tokenizer.decode(tail, skip_special=False) == text:
                new, self._ids, self._known = text[self._told : len(before)], tail, 0
                self._told = max(0, self._told - len(before))
                return new
        new, self._told = text[self._told : end], max(self._told, end)
        return new


class Telling:
    """Visible text as it grows: `take()` is what no stop string that is still open may take back.

    `cut` is the length of the text before the first stop string, None where there is none yet.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.told = stops, 0
        self.held = ""
        self.cut: int | None = None
        self.stop: str | None = None
        self._longest = max(map(len, stops), default=0)

    def add(self, text: str) -> None:
        """More text; what follows a stop string is lost."""
        if self.cut is not None:
            return
        start = max(0, len(self.held) - self._longest + 1)
        self.held += text
        if self.stops and (found := first_stop(self.held, self.stops, start)):
            at, self.stop = found
            self.cut, self.held = self.told + at, self.held[:at]

    def take(self, most: int | None = None) -> str:
        """What may be told now, of at most `most` characters of what is held."""
        end = len(self.held) if self.cut is not None else self._open()
        end = end if most is None else min(end, most)
        out, self.held = self.held[:end], self.held[end:]
        self.told += end
        return out

    def _open(self) -> int:
        """Where in what is held a stop string may have begun."""
        end = len(self.held)
        for stop in self.stops:
            at = self.held.find(stop[0], max(0, len(self.held) - len(stop) + 1))
            while at >= 0 and not stop.startswith(self.held[at:]):
                at = self.held.find(stop[0], at + 1)
            end = min(end, at) if at >= 0 else end
        return end


def first_stop(text: str, stops: Sequence[str], start: int = 0) -> tuple[int, str] | None:
    """Where the first of `stops` begins in `text`, and which it is."""
    found = [(at, s) for s in stops if (at := text.find(s, start)) >= 0]
    return min(found, default=None)


def shortened(message: Message, length: int) -> Message:
    """An assistant's message of which `length` characters of text were told."""
    others = tuple(p for p in message.parts if not isinstance(p, Text))
    return Message("assistant", (*others, Text(message.text[:length])))


class _Listener:
    """What both kinds of answers keep: ids, and the tokens that are to be told of."""

    def __init__(self, tokenizer: Any, asked: Asked) -> None:
        self.tokenizer, self.asked = tokenizer, asked
        self.ids: list[int] = []
        self.tokens: list[Drawn] = []
        self.finish = ""
        self.thinking = 0
        self.telling = Telling(asked.stop)
        self.message = Message.assistant("")
        self._keeps = asked.logprobs or asked.token_ids
        self._tokens_told = 0
        self._stop_ids, self._marks = signs(tokenizer)
        self._ended = False

    def _new_tokens(self) -> Sequence[Drawn]:
        if not self._keeps:
            return ()
        new, self._tokens_told = self.tokens[self._tokens_told :], len(self.tokens)
        return new

    def choice(self) -> Choice:
        """The whole of it, once it has ended."""
        kept = self.tokens
        return Choice(
            self.message, self.finish, self.telling.stop, kept, len(self.ids), self.thinking
        )


class Continuation(_Listener):
    """A prompt continued as plain text: one choice of completions."""

    def __init__(self, tokenizer: Any, asked: Asked) -> None:
        super().__init__(tokenizer, asked)
        self._growing = Growing(tokenizer)

    def hear(self, token: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> bool:
        """Take a token; True where a stop string is complete and no more is wanted."""
        if self.telling.cut is not None:
            return True
        self.ids.append(token)
        if self._keeps:
            self.tokens.append(Drawn(token, logprob, top))
        if token not in self._stop_ids and not self._ended:
            self.telling.add(self._growing.add(token))
        else:
            self._ended = True
        return self.telling.cut is not None

    def end(self, finish: str) -> None:
        """No more tokens come."""
        ids = self.ids[:-1] if self._ended else self.ids
        text = self.tokenizer.decode(ids, skip_special=False)
        cut = self.telling.cut
        self.message = Message.assistant(text if cut is None else text[:cut])
        self.finish = "stop" if cut is not None else finish

    def say(self) -> Said | None:
        """What can be told now and was not."""
        if not self.finish:
            text, tokens = self.telling.take(), self._new_tokens()
            return Said(text, tokens=tokens) if text or tokens else None
        text = self.message.text[self.telling.told :]
        return Said(text, "", (), self._new_tokens(), self.finish, self.telling.stop)


class Speaker(_Listener):
    """An assistant's message: one choice of a chat.

    Held back are bytes that do not make a character yet, text that may become a stop string, and
    what may be a tool call, since only its end tells whether it is one.
    """

    def __init__(self, tokenizer: Any, asked: Asked) -> None:
        super().__init__(tokenizer, asked)
        # Calls are numbered through the conversation: clients tell results by the call's name.
        self._first_call = sum(len(m.tool_calls) for m in asked.messages)
        self._tools = asked.tools if asked.choice != "none" else ()
        form = tokenizer.format
        self._bare = bool(self._tools) and form.bare_calls
        self._blind = False  # behind a mark where calls are bare: only the end tells what is said
        self._kind, self._growing = "text", Growing(tokenizer)
        self._call: list[int] = []
        self._strip = ""  # what the run in work does not begin with
        self._lead = form.space  # what the answer does not begin with
        self._thought = self._new_thought = ""

    def hear(self, token: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> bool:
        """Take a token; True where a stop string is complete and no more is wanted."""
        if self.telling.cut is not None:
            return True
        self.ids.append(token)
        if self._keeps:
            self.tokens.append(Drawn(token, logprob, top))
        if self._ended or token in self._stop_ids:
            self._ended = True
            return False
        kind = self._marks.get(token)
        if kind is not None and (kind != "text" or self._kind != "text"):
            self._close(kind)
        elif self._kind == "python":
            self._call.append(token)
        elif self._kind == "think":
            self.thinking += 1
            self._new_thought += self._begun(self._growing.add(token))
        elif not self._blind and (text := self._begun(self._growing.add(token))):
            self.telling.add(text)
        return self.telling.cut is not None

    def end(self, finish: str) -> None:
        """No more tokens come."""
        message = parse_assistant(
            self.tokenizer, self.ids, tools=self._tools, first_call=self._first_call
        )
        telling = self.telling
        if telling.cut is None and (found := first_stop(message.text, telling.stops)):
            telling.cut, telling.stop = found
        if telling.cut is not None:
            message, finish = shortened(message, telling.cut), "stop"
        calls = bool(message.tool_calls) and finish == "stop"
        self.message, self.finish = message, "tool_calls" if calls else finish

    def say(self) -> Said | None:
        """What can be told now and was not."""
        if self.finish:
            whole = self.message.thought
            thought, text = whole[len(self._thought) :], self.message.text[self.telling.told :]
            calls, tokens = self.message.tool_calls, self._new_tokens()
            return Said(text, thought, calls, tokens, self.finish, self.telling.stop)
        thought, self._new_thought = self._new_thought, ""
        gap = self.tokenizer.format.gap
        if thought and gap:  # breaks at a thought's end are not told
            kept = len(thought.rstrip("\n"))
            thought, self._new_thought = thought[:kept], thought[kept:]
        self._thought += thought
        most = None
        if self._bare:
            held = self.telling.held
            most = len(held[: may_begin(held)].rstrip())
        elif gap:
            most = len(self.telling.held.rstrip("\n"))  # a break before a call is not said
        text, tokens = self.telling.take(most), self._new_tokens()
        return Said(text, thought, (), tokens) if text or thought or tokens else None

    def _begun(self, text: str) -> str:
        """`text` without what its run does not begin with."""
        if self._lead and text:
            text, self._lead = text.removeprefix(self._lead), ""
        if self._strip and text:
            text = text.lstrip(self._strip)
            self._strip = "" if text else self._strip
        return text

    def _close(self, kind: str) -> None:
        """A mark: the run in work ends, one of `kind` begins."""
        form, before = self.tokenizer.format, self._kind
        if before == "python" and not self._blind:
            text = self.tokenizer.decode(self._call, skip_special=False)
            prose, calls = final_calls(text)
            if calls and form.gap:
                self.telling.held = self.telling.held.removesuffix("\n")
            self.telling.add(prose if calls else f"{form.marks[0]}{text}{form.marks[1]}")
        if before == "think":
            self._new_thought = self._new_thought.rstrip("\n") if form.gap else self._new_thought
        self._blind = self._blind or (kind == "python" and form.bare_calls)
        self._strip = "\n" if form.gap and "think" in (before, kind) else ""
        self._kind, self._growing, self._call, self._lead = kind, Growing(self.tokenizer), [], ""
