"""What goes to a chat endpoint and what comes back: request bodies, answers, their disk cache.

`read_answer(b'{"choices": [{"message": {"content": "4"}}]}').message.text` -> `"4"`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from puna.core.errors import UserError
from puna.core.files import explain
from puna.core.messages import Message

SCHEMA = 1
BODY_LIMIT = 20_000_000
EXCERPT = 80


class Garbage(ValueError):
    """The endpoint answered 200 with something that is not an answer."""


@dataclass(frozen=True)
class Answer:
    """A chat answer; token counts are None where the endpoint does not say."""

    message: Message
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None


def base_url(url: str) -> str:
    """The address up to its version: `http://host:8000` -> `http://host:8000/v1`.

    Raises UserError on anything but http(s), and on a user name or query, where keys hide.
    """
    bare = url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
    try:
        parts = urlsplit(bare)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise UserError("the endpoint's address is not a URL", fix="give http://HOST:PORT/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"the address of {host} carries a user name or a query",
            fix="give the plain address, and the key through api_key_env",
        )
    versioned = any(re.fullmatch(r"v\d+\w*", piece) for piece in parts.path.split("/"))
    return bare if versioned else f"{bare}/v1"


def is_loopback(url: str) -> bool:
    """Whether the address is this machine (proxies are then left out)."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def chat_body(
    model: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], **params: Any
) -> dict[str, Any]:
    """The chat-completions request; parameters that are None or empty are left to the endpoint."""
    body = {"model": model, "messages": [m.to_openai() for m in messages]}
    if tools:
        body["tools"] = [dict(tool) for tool in tools]
    return body | {name: value for name, value in params.items() if value not in (None, [])}


def encode(body: Mapping[str, Any]) -> bytes:
    """Canonical ASCII JSON (lone surrogates, which models do write, survive as escapes)."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def excerpt(raw: bytes, secret: str = "", length: int = EXCERPT) -> str:
    """The first `length` printable characters, the secret struck out before the cut."""
    text = raw[:4000].decode("utf-8", "replace")
    if secret:
        text = text.replace(secret, "***")
    text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())[:length] or "(empty)"


def _load(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Garbage("not JSON") from error
    if not isinstance(data, dict):
        raise Garbage("not a JSON object")
    return data


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12
    return value if good else None


def read_answer(raw: bytes) -> Answer:
    """A chat-completions body, total over any bytes. Raises Garbage saying what is wrong."""
    data = _load(raw)
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Garbage("no choices")
    finish, message = choices[0].get("finish_reason"), choices[0].get("message")
    if not isinstance(message, dict):
        raise Garbage("no message")
    if not isinstance(finish, str | None):
        raise Garbage("finish_reason is not text")
    fields: dict[str, Any] = {"role": "assistant"} | message
    # vLLM and OpenRouter say `reasoning`, DeepSeek and others `reasoning_content`.
    fields["reasoning_content"] = message.get("reasoning_content") or message.get("reasoning")
    if fields.get("content") is None and isinstance(message.get("refusal"), str):
        fields["content"] = message["refusal"]
    try:
        parsed = Message.from_openai(fields)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Garbage(f"a malformed message ({error})") from error
    if parsed.role != "assistant":
        raise Garbage(f"a message of role {parsed.role}")
    usage = data.get("usage")
    tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return Answer(parsed, finish or "stop", *tokens)


def read_models(raw: bytes) -> list[str]:
    """The names in a `/v1/models` body. Raises Garbage."""
    rows = _load(raw).get("data")
    if not isinstance(rows, list):
        raise Garbage("no list of models")
    return [r["id"] for r in rows if isinstance(r, dict) and isinstance(r.get("id"), str)]


def retry_after(value: str | None) -> float | None:
    """Seconds asked for by a Retry-After header (a number or an HTTP date); None if unreadable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


class AnswerCache:
    """Answers on disk, one JSON file each; a file that does not match its digest is ignored."""

    def __init__(self, folder: Path, secret: str = "") -> None:
        self.folder, self._secret = folder, secret

    @staticmethod
    def key(url: str, body: bytes) -> str:
        """SHA-256 of the address and the request (model, messages, tools, parameters, seed)."""
        return hashlib.sha256(url.encode() + b"\0" + body).hexdigest()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Answer | None:
        """The stored answer, or None where there is none that can be trusted."""
        try:
            record = json.loads(self._path(key).read_bytes())
            data = record["answer"]
            if record["schema"] != SCHEMA or record["sha256"] != self.key(key, encode(data)):
                return None
            message = Message.from_json(data["message"])
            tokens = data["prompt_tokens"], data["completion_tokens"]
            return Answer(message, data["finish"], *tokens)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Store by one rename. Raises UserError on a full disk or a missing permission.

        Not synced: a file torn by a power cut fails its digest and is asked for again. An answer
        that repeats the API key is not stored.
        """
        data = answer.__dict__ | {"message": answer.message.to_json()}
        digest = self.key(key, encode(data))
        text = json.dumps({"schema": SCHEMA, "sha256": digest, "answer": data})
        if self._secret and json.dumps(self._secret)[1:-1] in text:
            return
        path = self._path(key)
        aside = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text)
            os.replace(aside, path)
        except OSError as error:
            raise explain(error, path) from error
