"""Task: one problem. What the policy sees, and apart from it what only the verifier sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.core.files import sha256_json
from puna.core.messages import Message

SPLITS = ("train", "test")

Script = Callable[[Sequence[Message]], Message]
"""A scripted policy for one role: the messages it sees in, its message out."""


def script(messages: Sequence[Message]) -> Script:
    """Says these in order, then nothing for ever."""

    def speak(heard: Sequence[Message]) -> Message:
        said = sum(m.role == "assistant" for m in heard)
        return messages[said] if said < len(messages) else Message.assistant("")

    return speak


@dataclass(frozen=True)
class Task:
    """One problem of an environment.

    `messages`, `tools` and `files` are what the policy may see; `hidden` reaches only the session
    and the verifier; `key` identifies the problem itself (equal keys are the same problem, so train
    and test must share none); `tags` name the slices that scores are printed for.
    """

    id: str
    messages: tuple[Message, ...]
    key: str
    hidden: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tools: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    admission: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over everything the policy sees and the verifier knows."""
        return sha256_json(
            {
                "messages": [m.to_json() for m in self.messages],
                "tools": [dict(t) for t in self.tools],
                "files": {name: data.hex() for name, data in self.files.items()},
                "hidden": repr(sorted(self.hidden.items())),
            }
        )
