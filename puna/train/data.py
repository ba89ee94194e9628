"""Rows for SFT: the user's JSONL or Parquet of messages, or demonstrations by an oracle.

`read_messages(Path("chats.jsonl"))`; every complaint names file and line.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.gym.environment import Environment
from puna.gym.loop import Context, play_scripts
from puna.gym.task import Script
from puna.text.images import attached
from puna.text.template import render
from puna.text.tokenizer import MIN_VOCAB, Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Chat:
    """One training row: a conversation and the tools it may call.

    `context` are pieces of the last message's text, from a character to another, that are read but
    not learned.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    context: tuple[tuple[int, int], ...] = ()


def env_settings(env: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """`"arithmetic"` or `{id = "arithmetic", terms = 2}` -> name and settings."""
    if isinstance(env, str):
        return env, {}
    settings = dict(env)
    name = settings.pop("id", None)
    if not isinstance(name, str):
        raise UserError("env: 'id' is missing", 'e.g. env = {id = "arithmetic", terms = 2}')
    return name, settings


def train_tasks(env: Environment, at_most: int) -> int:
    """How many train tasks there are, up to `at_most`. Raises UserError where there is none."""
    count = env.count("train")
    if count < 1:
        raise UserError(f"{env.name} has no train tasks", "let count('train') return more than 0")
    return min(count, at_most)


def practised(env: Environment, count: int) -> list[Chat]:
    """`count` conversations that teach what the environment's tools do.

    Raises UserError where it has none.
    """
    try:
        return [Chat(tuple(env.practice(i))) for i in range(count)]
    except NotImplementedError:
        what = f"{env.name} has nothing to practise with"
        raise UserError(what, 'leave out rows = "practice"') from None


def last_tasks(env: Environment, count: int) -> range:
    """The last `count` train tasks: RL begins with the first, and its prompts should be new.

    Raises UserError where there is none.
    """
    size = env.count("train")
    return range(size - train_tasks(env, count), size)


def demonstrations(env: Environment, count: int, left_out: Set[int] = frozenset()) -> list[Chat]:
    """What the environment demonstrates on its last `count` train tasks, one row a role.

    A row is what that role saw and said; where its history is not append-only, a row a branch.
    Raises UserError where there is no train task.
    """
    tasks = [i for i in last_tasks(env, count) if i not in left_out]

    async def play() -> list[Chat]:
        out = []
        for index in tasks:
            task = env.task("train", index)
            heard: dict[str, list[tuple[Message, ...]]] = {role: [] for role in env.roles}
            shown = env.demonstration(task)
            scripts = {r: _overheard(s, heard[r]) for r, s in shown.items()}
            await play_scripts(env, task, scripts, Context(), resources)
            for turns in heard.values():
                out += [
                    Chat(turn, tuple(task.tools))
                    for turn, after in zip(turns, [*turns[1:], ()], strict=True)
                    if after[: len(turn)] != turn
                ]
        return out

    resources = env.setup()
    try:
        return asyncio.run(play())
    finally:
        env.teardown(resources)


def conversations(chats: Sequence[Chat]) -> list[str]:
    """Each chat's text as `render` lays it out, without special tokens."""
    letters = Tokenizer.train((), MIN_VOCAB)
    return [letters.decode(render(letters, c.messages, tools=c.tools).ids) for c in chats]


def _overheard(script: Script, turns: list[tuple[Message, ...]]) -> Script:
    def speak(messages: Sequence[Message]) -> Message:
        reply = script(messages)
        turns.append((*messages, reply))
        return reply

    return speak


def read_messages(path: Path) -> list[Chat]:
    """Rows of a JSONL or Parquet file: `messages` (and `tools`), or `prompt` and `completion`.

    Images are OpenAI's `image_url` parts: a data URL, or a path from the file's folder on. A text
    part of the last message with `"weight": 0` is read and not learned.
    Raises UserError naming the file and the first line that is wrong.
    """
    example = '{"messages": [{"role": "user", "content": "..."}, ...]}'

    def parse(row: Any) -> Chat:
        chat = _chat(row)
        return replace(chat, messages=tuple(attached(m, path.parent) for m in chat.messages))

    return read_rows(path, parse, example)


def read_rows(path: Path, parse: Callable[[Any], T], example: str) -> list[T]:
    """Every row of a JSONL or Parquet file through `parse`, which raises ValueError and the like.

    Raises UserError naming the file and the first line that is wrong, with `example` as the fix.
    """
    if not path.is_file():
        raise UserError(f"no data file {path}", "give a .jsonl or .parquet file of messages")
    rows = _parquet(path) if path.suffix == ".parquet" else _jsonl(path)
    out = []
    for number, row in rows:
        try:
            out.append(parse(row))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path} line {number}: {reason}", f"each line is {example}") from error
        except UserError as error:
            raise UserError(f"{path} line {number}: {error.what}", error.fix) from error
    if not out:
        raise UserError(f"{path} has no rows", "put one conversation on each line")
    return out


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        data = path.read_bytes()
        # Not splitlines: JSON texts may hold U+2028 and others that it takes for line ends.
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} line {row} is not UTF-8 text (byte {error.start})", "is it a binary file?"
        ) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {number}: not JSON ({error})") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("reading Parquet needs pyarrow", "pip install 'puna[parquet]'") from None
    try:
        rows = pq.read_table(path).to_pylist()
    except Exception as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error
    yield from enumerate(rows, 1)


def _chat(row: Any) -> Chat:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object, not {type(row).__name__}")
    if "messages" in row:
        given = row["messages"]
    elif "prompt" in row and "completion" in row:
        given = [*turns_of(row["prompt"], "user"), *turns_of(row["completion"], "assistant")]
    else:
        raise KeyError("'messages' (nor 'prompt' and 'completion')")
    if not isinstance(given, list) or not given:
        raise ValueError("messages must be a list that is not empty")
    messages = tuple(Message.from_openai(m) for m in given)
    if not any(m.role == "assistant" for m in messages):
        raise ValueError("no assistant message, so nothing to learn")
    if any(map(_context, given[:-1])):
        raise ValueError("a text has weight 0 and is not in the last message")
    return Chat(messages, tools_of(row), _context(given[-1]))


def _context(message: Any) -> tuple[tuple[int, int], ...]:
    """The pieces of a message's text that have weight 0, which only an assistant's may."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    out, at = [], 0
    for part in parts:
        weight, text = part.get("weight", 1), part.get("text", "")
        if weight not in (0, 1):
            raise ValueError(f"the weight of a text is {weight!r}, must be 0 or 1")
        if weight == 0 and text:
            out.append((at, at + len(text)))
        at += len(text)
    if out and message.get("role") != "assistant":
        raise ValueError("a text has weight 0 and is not the assistant's")
    return tuple(out)


def tools_of(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row: a list, or its JSON as text."""
    tools = row.get("tools") or ()
    return tuple(json.loads(tools) if isinstance(tools, str) else tools)


def turns_of(given: Any, role: str) -> list[Any]:
    """Messages as they are; a text as the one message of `role`."""
    return [{"role": role, "content": given}] if isinstance(given, str) else list(given)
