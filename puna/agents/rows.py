"""Conversations in files: JSONL rows of OpenAI messages, which are rows for `sft`.

`append_rows(Path("talks.jsonl"), [(messages, tools)])`; `read_last_row(Path("talks.jsonl"))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.files import explain, json_bytes
from puna.core.messages import Message
from puna.gateway.reading import BadRequest, chat_messages, json_object, tools
from puna.text.images import attached

Row = tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...]]
"""A conversation and the tools it may call."""


def append_rows(path: Path, rows: Sequence[Row]) -> int:
    """Add conversations at the end of a file, which may be new; how many rows it then has.

    Raises UserError where the file holds anything else, or cannot be written.
    """
    known = _lines(path) or []
    for number, line in enumerate(known, 1):
        _row(path, number, line)
    data = b""
    for messages, given in rows:
        row: dict[str, Any] = {"messages": [m.to_openai() for m in messages]}
        data += json_bytes(row | ({"tools": list(given)} if given else {})) + b"\n"
    try:
        with open(path, "ab+") as file:
            file.seek(max(0, file.tell() - 1))
            file.write(data if file.read() in (b"", b"\n") else b"\n" + data)
    except OSError as error:
        raise explain(error, path) from error
    return len(known) + len(rows)


def read_last_row(path: Path) -> Row:
    """The last conversation of a file; images are paths from its folder on, or data URLs.

    Raises UserError naming the file and the line where that is none.
    """
    lines = _lines(path)
    if not lines:
        raise UserError(f"{path} has no conversations", "name a file that /save made")
    messages, given = _row(path, len(lines), lines[-1])
    try:
        return tuple(attached(m, path.parent) for m in messages), given
    except ValueError as error:  # no path at all
        raise UserError(f"{path} row {len(lines)}: an image is named by no path: {error}") from None


def _lines(path: Path) -> list[bytes] | None:
    """Those that are not empty; None where there is no such file."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file", "name a .jsonl file")
        return [x for x in path.read_bytes().split(b"\n") if x.strip()]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        data = json_object(line)
        return chat_messages(data.get("messages")), tools(data)
    except BadRequest as error:
        what = str(error).replace("the body", "the row")
        fix = 'each line is {"messages": [{"role": "user", "content": "..."}, ...]}'
        raise UserError(f"{path} row {number}: {what}", fix) from None
