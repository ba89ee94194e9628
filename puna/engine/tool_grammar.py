"""What an assistant's turn may be where it has tools: text, and calls that fit them.

`tool_grammar(tokenizer, [{"name": "add", "parameters": {"type": "object"}}], "required")`.

How a call is written is asked of the chat format: it writes a turn with stand-ins, and the grammar
is that turn with the tools' names and schemas in their place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.errors import UserError, nearest
from puna.core.messages import Message, ToolCall
from puna.engine.grammar import OPTIONS, Grammar, json_rule
from puna.text.tokenizer import Tokenizer
from puna.text.turns import Fixed, Special

MAX_CALLS = 32  # in one turn: a model that finds no end would call for ever
# Stand for a tool's name, its arguments and a call's id in a turn that the format writes.
_NAME, _ARGUMENTS, _ID = "\ue000", "\ue001", "0Id0Id0Id"
_ID_TEXT = f', "id": "{_ID}"'
_TEXT = "TEXT: /(?s:.*)/"
# Where `puna.text.calls` looks for a call of any name.
_OPENING = r'\[\s*([^\W\d][\w.-]*\s*\(|\{)|\{\s*"|<function='


def tool_grammar(
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]],
    choice: str = "auto",
    parallel: bool = True,
) -> Grammar:
    """What an assistant's turn may be, in the chat format of `tokenizer`, with `tools`.

    Calls are written as the format writes them, with arguments that fit the tool's schema. "auto"
    allows a thought, then text, then calls; "required" calls only, and the name of a tool calls of
    that one: one call, or up to MAX_CALLS where `parallel`. `tools` are OpenAI function
    dictionaries. Where a format's calls are bare, text that would be read as a call of a tool is
    not allowed. Raises UserError naming the tool that cannot be kept to.
    """
    specs = {str(spec.get("name")): spec for spec in (t.get("function", t) for t in tools)}
    if choice not in ("auto", "required", *specs) or not specs:
        what = f"no tool {choice!r} to choose" if specs else "no tools to call"
        raise UserError(what, nearest(choice, ["auto", "required", *specs]))
    named = {choice: specs[choice]} if choice in specs else specs
    rules = _calls(tokenizer, named, choice == "auto", parallel)
    lines = [f"{name}: {body}" for name, body in rules.items()]
    try:
        return Grammar(tokenizer, "\n".join([*lines, _TEXT, OPTIONS]), "tools")
    except UserError:
        for i, name in enumerate(named):  # which of them is at fault
            rule = f"start: arguments_{i}\narguments_{i}: {rules[f'arguments_{i}']}\n{OPTIONS}"
            Grammar(tokenizer, rule, f"tool {name!r}")
        raise


def _calls(
    tokenizer: Tokenizer, specs: Mapping[str, Mapping[str, Any]], free: bool, parallel: bool
) -> dict[str, str]:
    """The rules of a turn with calls, where `free` one of text too."""
    before, *between, after = _turn(tokenizer, 2 if parallel else 1)
    every = range(len(specs))
    rules = {
        "start": "calls",
        "calls": f"({' | '.join(f'first_{i} arguments_{i}' for i in every)}) more close",
        "more": f"({' | '.join(f'next_{i} arguments_{i}' for i in every)}){{0,{MAX_CALLS - 1}}}"
        if between
        else '""',
        "close": _lark(after, ""),
        "id": f"/{_ID_TEXT.replace(_ID, '[A-Za-z0-9]{9}')}/",
    }
    said = ""
    if free and tokenizer.format.bare_calls:
        marks = [f"<[{piece}]>" for piece in before if isinstance(piece, int)]
        before = [piece for piece in before if isinstance(piece, str)]
        beside = f"({' QUIET '.join(marks)})? " if marks else ""  # Llama 4 has prose in marks
        rules["start"] = f"{_thought(tokenizer)}(PROSE | {beside}calls)"
        rules["PROSE"] = f"TEXT & ~/(?s:.*)({_seeming(list(specs))})(?s:.*)/"
        rules["QUIET"] = f"TEXT & ~/(?s:.*)({_OPENING})(?s:.*)/"
        said = "PROSE "
    elif free:
        rules["start"] = _thought(tokenizer) + "TEXT calls?"
    for i, (name, spec) in enumerate(specs.items()):
        rules[f"first_{i}" + "[lazy]" * bool(said)] = said + _lark(before, name)
        rules |= {f"next_{i}": _lark(part, name) for part in between}
        rules[f"arguments_{i}"] = json_rule(_parameters(name, spec), f"tool {name!r}")
    return rules


def _turn(tokenizer: Tokenizer, calls: int) -> list[list[str | int]]:
    """Texts and token ids of a turn of calls as the format writes it, cut at the arguments."""
    call = ToolCall(_ID, _NAME, _ARGUMENTS)
    message = Message("assistant", (call,) * calls)
    turn = next(iter(tokenizer.format.turns([message], (), False)))
    parts: list[list[str | int]] = [[]]
    for piece in turn.pieces:
        for text in tokenizer.cut(piece.text) if isinstance(piece, Fixed) else [piece]:
            if isinstance(text, str):
                first, *rest = text.split(_ARGUMENTS)
                parts[-1].append(first)
                parts += [[r] for r in rest]
            elif isinstance(text, int | Special):
                parts[-1].append(text if isinstance(text, int) else tokenizer.special(text.name))
    return parts


def _lark(part: Sequence[str | int], name: str) -> str:
    """A part of a turn as Lark, with the name of a tool; an id may be left out."""
    symbols: list[str] = []
    for piece in part:
        if isinstance(piece, int):
            symbols.append(f"<[{piece}]>")
            continue
        text = piece.replace(_NAME, json.dumps(name, ensure_ascii=False)[1:-1])
        symbols.append(" id? ".join(json.dumps(t) for t in text.split(_ID_TEXT)))
    return " ".join(symbols)


def _thought(tokenizer: Tokenizer) -> str:
    marks = ("think_start", "think_end")
    if any(tokenizer.token(mark) is None for mark in marks):
        return ""
    opening, closing = map(tokenizer.special, marks)
    return f"(<[{opening}]> TEXT <[{closing}]>)? "


def _seeming(names: Sequence[str]) -> str:
    """A regex of what `puna.text.calls` may take for a call of one of `names` in prose."""
    plain = "|".join(_escaped(name) for name in names)
    spelt = "|".join(_spelt(name) for name in names)
    forms = (rf'"{_spelt("name")}"\s*:\s*"({spelt})"', rf"\[\s*({plain})\s*\(")
    return "|".join([*forms, rf"<function=\s*({plain})>"])


def _spelt(text: str) -> str:
    """A regex of every way in which JSON may spell `text`."""
    out = ""
    for letter in text:
        units = letter.encode("utf-16-be", "surrogatepass").hex()
        code = "".join(rf"\\u(?i:{units[i : i + 4]})" for i in range(0, len(units), 4))
        short = "\\/" if letter == "/" else json.dumps(letter, ensure_ascii=False)[1:-1]
        out += f"({_escaped(letter)}|{_escaped(short)}|{code})"
    return out


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else rf"\x{{{ord(c):x}}}" for c in text)


def _parameters(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object; none where it names no schema."""
    schema = spec.get("parameters") or {"properties": {}, "additionalProperties": False}
    kinds = schema.get("type", "object") if isinstance(schema, Mapping) else None
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise UserError(f"tool {name!r}: its arguments are no object", 'give "type": "object"')
    return {**schema, "type": "object"}
