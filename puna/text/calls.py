"""Tool calls in text, in every form that models write them; nothing is ever evaluated.

`parse_calls('So: [add(a=1)]', {"add"})` -> `("So:", [ToolCall("", "add", '{"a": 1}')])`.

The forms: `[f(a=1), g()]` · `{"name": "f", "parameters": {"a": 1}}` (or "arguments"), several after
`;` or white space, or in a list · `<function=f>{"a": 1}</function>` · any between the marks of
Llama, of Qwen (`<tool_call>`, `</tool_call>`) or behind that of Mistral (`[TOOL_CALLS]`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection
from typing import Any

from puna.core.messages import ToolCall

MAX_DEPTH = 64  # of brackets within one call
MAX_NUMBER = 400  # characters of a number in the Python form
_WORK = 8  # how often a character may be looked at: keeps the search for a beginning linear

_MARKED = re.compile(
    r"<\|python_(?:start|tag)\|>(.*?)(?:<\|python_end\|>|\Z)"
    r"|<tool_call>(.*?)(?:</tool_call>|\Z)|\[TOOL_CALLS\](.*?)(?:</s>|\Z)",
    re.DOTALL,
)
_GAP = re.compile(r"[\s;]*+")
_SPACE = re.compile(r"\s*+")
_NAME = re.compile(r"[^\W\d][\w.-]*+")
_KEYWORD = re.compile(r"([^\W\d]\w*+)\s*+=(?!=)\s*+")
_OPENING = re.compile(r'\[\s*+(?:[^\W\d][\w.-]*+\s*+\(|\{)|\{\s*+"|<function=')
_MAY_OPEN = re.compile(r"[\[{]|<(?:[ft]|\Z)")
_TAG_NAME, _UNFINISHED_TAG = re.compile(r"([^<>\s]++)>"), re.compile(r"[^<>\s]*+\Z")
_JSON_STEP = re.compile(r'[^"\[\]{}]*+(?:"(?:[^"\\]|\\.)*+"|([\[{])|([\]}]))', re.DOTALL)
_STRING = r'"(?:[^"\\]|\\.)*+"'
_NAME_FIRST = re.compile(
    rf'\{{\s*+(?:"type"\s*+:\s*+"function"\s*+,\s*+)?+"name"\s*+:\s*+{_STRING}\s*+,'
    r'\s*+"(?:parameters|arguments)"\s*+:\s*+',
    re.DOTALL,
)
_REST = re.compile(r'\s*+(?:,\s*+"id"\s*+:\s*+"[^"\\]*+"\s*+)?+\}')
CALL_ID = re.compile(r"[A-Za-z0-9]{9}")  # what Mistral names a call
_TEXT = re.compile(r'"((?:[^"\\\n]|\\.)*+)"|\'((?:[^\'\\\n]|\\.)*+)\'', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\n": ""}
_ESCAPED |= {c: c for c in "\\'\""}
_NUMBER = re.compile(
    rf"(?=[^\s,\]}})]{{1,{MAX_NUMBER}}}+[\s,\]}})])"
    r"-?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+(?![\w.])"
)
# A word, a number or a text that the end of the text cuts off.
_UNFINISHED = re.compile(
    r"""(?:\w++\s*+|[-.0-9][-+.\w]*+|"(?:[^"\\\n]|\\.)*+\\?|'(?:[^'\\\n]|\\.)*+\\?"""
    r")\Z",
    re.DOTALL,
)
_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False}
_CONSTANTS |= {"null": None}


def parse_calls(text: str, names: Collection[str] | None = None) -> tuple[str, list[ToolCall]]:
    """What `text` says beside its calls, and the calls, with ids where they are Mistral's.

    Calls end a text, after any prose: what merely mentions one goes on. A call that was cut off
    stays in the prose, those before it count. Spelt-out python marks delimit a text of their own.
    Only calls of `names` are calls; None takes any name, for a text that is known to hold calls.
    In the Python form every argument has a name and is a literal. Arguments keep the spelling of
    JSON that they had. Never raises; time is linear in the text.
    """
    prose: list[str] = []
    calls: list[ToolCall] = []
    at = 0
    for marked in _MARKED.finditer(text):
        inner = marked[marked.lastindex or 1]
        for piece, whole in ((text[at : marked.start()], ""), (inner, marked[0])):
            said, found = final_calls(piece, names)
            if found and whole and not whole.startswith("<|"):  # a line break is before Qwen's
                prose[-1] = prose[-1].rstrip()
            prose.append(said if found or not whole else whole)
            calls += found
        at = marked.end()
    said, found = final_calls(text[at:], names)
    return "".join([*prose, said]), calls + found


def may_begin(text: str) -> int:
    """Where in a growing `text` a call may have begun: what is before it is prose for certain."""
    found = _MAY_OPEN.search(text)
    return found.start() if found else len(text)


def final_calls(text: str, names: Collection[str] | None = None) -> tuple[str, list[ToolCall]]:
    """`parse_calls` of a text in which marks, where they are spelt out, mark nothing."""
    at, work = 0, _WORK * len(text) + 1000
    while work > 0 and (opening := _OPENING.search(text, at)):
        reader = _Reader(text, opening.start(), names)
        if reader.only_calls() and reader.calls:
            return (text[: opening.start()].rstrip() + text[reader.kept :]), reader.calls
        work -= reader.at - opening.start() + 1
        at = max(reader.passed, opening.start() + 1)
    return text, []


class _NoCallError(Exception):
    """What stands there is no call."""


class _CutError(_NoCallError):
    """The text ends within a call."""


class _Reader:
    """Calls from one place of a text on.

    `at` is how far it has read, `kept` where the last whole call ended; `passed` is behind an
    object that is JSON and no call, in which no call is looked for either.
    """

    def __init__(self, text: str, at: int, names: Collection[str] | None) -> None:
        self.text, self.at, self.names = text, at, names
        self.kept, self.passed = at, 0
        self.calls: list[ToolCall] = []

    def only_calls(self) -> bool:
        """Whether nothing but calls follows, the last of them perhaps cut off."""
        try:
            while self._skip(_GAP) < len(self.text):
                self._one()
            self.kept = self.at
        except _CutError:
            self.at = len(self.text)
        except _NoCallError:
            return False
        return True

    def _one(self) -> None:
        if self.text[self.at] == "[":
            self.at += 1
            self._listed(self._object if self._peek() == "{" else self._python)
        elif self.text[self.at] == "{":
            self._object()
        elif self.text[self.at] == "<":
            self._tagged()
        else:
            raise _NoCallError
        self.kept = self.at

    def _listed(self, one: Callable[[], None]) -> None:
        """`one, one, one]` and any trailing comma; each counts as soon as it is whole."""
        while self._peek() != "]":
            one()
            self.kept = self.at
            if self._peek() == ",":
                self.at += 1
            elif self._peek() != "]":
                raise _NoCallError
        self.at += 1

    def _object(self) -> None:
        data, start, end = self._json()
        name, key = data.get("name"), "parameters" if "parameters" in data else "arguments"
        if not isinstance(name, str) or not isinstance(data.get(key), dict):
            self.passed = end
            raise _NoCallError
        arguments = _dumps(data[key])
        # The usual spelling keeps the arguments to the letter; other orders are written anew.
        if head := _NAME_FIRST.match(self.text, start, end):
            _, stop = json.JSONDecoder().raw_decode(self.text, head.end())
            if _REST.fullmatch(self.text, stop, end):
                arguments = self.text[head.end() : stop]
        given = data.get("id")
        if not isinstance(given, str) or not CALL_ID.fullmatch(given):
            given = ""
        self._add(name, arguments, given)

    def _tagged(self) -> None:
        self._spelt("<function=")
        name = self._match(_TAG_NAME, _UNFINISHED_TAG)[1]
        _, start, end = self._json()
        self._peek()
        self._spelt("</function>")
        self._add(name, self.text[start:end])

    def _python(self) -> None:
        name = self._match(_NAME)[0]
        if self._peek() != "(":
            raise _NoCallError
        self.at += 1
        values: dict[str, Any] = {}
        while self._peek() != ")":
            key = self._match(_KEYWORD)[1]
            if key in values:
                raise _NoCallError
            values[key] = self._value(1)
            self._comma(")")
        self.at += 1
        self._add(name, _dumps(values))

    def _value(self, depth: int) -> Any:
        """One literal: text, number, constant, list or object of them."""
        if depth > MAX_DEPTH:
            raise _NoCallError
        opening = self._peek()
        if opening in "\"'":
            return self._quoted()
        if opening == "[":
            self.at += 1
            items = []
            while self._peek() != "]":
                items.append(self._value(depth + 1))
                self._comma("]")
            self.at += 1
            return items
        if opening == "{":
            self.at += 1
            pairs: dict[str, Any] = {}
            while (mark := self._peek()) != "}":
                if mark not in "\"'":
                    raise _NoCallError
                key = self._quoted()
                if self._peek() != ":":
                    raise _NoCallError
                self.at += 1
                pairs[key] = self._value(depth + 1)
                self._comma("}")
            self.at += 1
            return pairs
        return self._plain()

    def _plain(self) -> Any:
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            value = float(number[0]) if set(number[0]) & set(".eE") else int(number[0])
            if not math.isfinite(value):
                raise _NoCallError
            return value
        word = self._match(_NAME)[0]
        if word not in _CONSTANTS:
            raise _NoCallError
        return _CONSTANTS[word]

    def _quoted(self) -> str:
        found = self._match(_TEXT)
        inner = found[1] if found[1] is not None else found[2]
        return _ESCAPE.sub(_unescaped, inner)

    def _comma(self, closing: str) -> None:
        if self._peek() == ",":
            self.at += 1
        elif self._peek() != closing:
            raise _NoCallError

    def _json(self) -> tuple[dict[str, Any], int, int]:
        """The JSON object that begins here, and from where to where it stands."""
        if self._peek() != "{":
            raise _NoCallError
        start, end = self.at, self._json_end()
        try:
            return json.loads(self.text[start:end]), start, end
        except ValueError:
            raise _NoCallError from None

    def _json_end(self) -> int:
        """Reads past the JSON object that begins here, by its brackets alone."""
        depth = 0
        while step := _JSON_STEP.match(self.text, self.at):
            self.at = step.end()
            depth += (step[1] is not None) - (step[2] is not None)
            if depth == 0:
                return self.at
            if depth > MAX_DEPTH:
                raise _NoCallError
        raise _CutError

    def _spelt(self, word: str) -> None:
        found = self.text[self.at : self.at + len(word)]
        if found != word:
            ends = self.at + len(found) == len(self.text) and word.startswith(found)
            raise _CutError if ends else _NoCallError
        self.at += len(word)

    def _skip(self, what: re.Pattern[str]) -> int:
        found = what.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.at

    def _peek(self) -> str:
        """The next character that is no white space."""
        if self._skip(_SPACE) == len(self.text):
            raise _CutError
        return self.text[self.at]

    def _match(
        self, what: re.Pattern[str], unfinished: re.Pattern[str] = _UNFINISHED
    ) -> re.Match[str]:
        self._peek()
        found = what.match(self.text, self.at)
        if not found:
            raise _CutError if unfinished.match(self.text, self.at) else _NoCallError
        self.at = found.end()
        return found

    def _add(self, name: str, arguments: str, call_id: str = "") -> None:
        if self.names is not None and name not in self.names:
            raise _NoCallError
        self.calls.append(ToolCall(call_id, name, arguments))


def _unescaped(found: re.Match[str]) -> str:
    if code := found[1] or found[2] or found[3]:
        number = int(code, 16)
    elif found[4]:
        number = int(found[4], 8)
    else:
        return _ESCAPED.get(found[5], found[0])
    if number > 0x10FFFF:
        raise _NoCallError
    return chr(number)


def _dumps(values: object) -> str:
    text = json.dumps(values, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: as an escape it can be stored
        return json.dumps(values)
    return text
