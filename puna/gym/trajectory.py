"""Trajectory: the record of one episode: messages, exact token ids, log-probabilities, outcomes.

Token ids are kept as sampled and never made again from text; when a history is not append-only the
record splits into branches.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.files import write_bytes
from puna.core.messages import Image, Message
from puna.core.outcome import Outcome, from_json, to_json
from puna.core.rng import Key
from puna.text.images import Picture, images_of

SCHEMA = 3  # 2 had no shadow, 1 no key and no seeds


@dataclass
class Branch:
    """One append-only run of tokens of a role: `mask` is True where it was sampled.

    `pictures` are the images among them that the policy saw.
    """

    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    routes: np.ndarray[Any, Any] | None = None
    pictures: list[Picture] = field(default_factory=list)

    def extend_prompt(self, ids: list[int]) -> None:
        """Append tokens the policy did not sample."""
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.versions += [-1] * len(ids)

    def extend_sampled(self, ids: tuple[int, ...], logprobs: tuple[float, ...], v: int) -> None:
        """Append sampled tokens with their log-probabilities and the weights' version."""
        self.ids += ids
        self.mask += [True] * len(ids)
        self.logprobs += logprobs
        self.versions += [v] * len(ids)

    def cut(self, known: int) -> None:
        """Keep the first `known` tokens."""
        for kept in (self.ids, self.mask, self.logprobs, self.versions):
            del kept[known:]
        self.pictures = [p for p in self.pictures if p.at < known]

    def to_json(self, shown: Sequence[Image] = ()) -> dict[str, Any]:
        """Plain data; routes as base64 of bytes with their shape, pictures by their place and their
        number among the images `shown`.
        """
        out: dict[str, Any] = {
            "ids": self.ids,
            "mask": [int(m) for m in self.mask],
            "logprobs": [round(x, 6) for x in self.logprobs],
            "versions": self.versions,
        }
        if self.routes is not None:
            out["routes"] = {
                "shape": list(self.routes.shape),
                "data": base64.b64encode(self.routes.astype(np.uint8).tobytes()).decode(),
            }
        if self.pictures:
            out["pictures"] = [[p.at, shown.index(p.part)] for p in self.pictures]
        return out


@dataclass(frozen=True)
class Episode:
    """What a verifier sees of one run of a task, and all it needs to judge it again offline.

    `transcript` is every message in order with the role that spoke it. What the environment showed
    stands as "env": the opening once, later messages when a role is first shown them (one shown to
    two roles twice; another role's speech as this one heard it too).
    `artifacts` are final databases, patches and the like; `ended` is "done", the limit that was met
    ("turns", "tokens", "seconds"), or "left" where the agent said nothing more.
    """

    task_id: str
    transcript: tuple[tuple[str, Message], ...]
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    ended: str = "done"

    def said(self, role: str = "agent") -> str:
        """The text of the last message `role` spoke, or "" where it never spoke."""
        for speaker, message in reversed(self.transcript):
            if speaker == role:
                return message.text
        return ""


@dataclass
class Trajectory:
    """An episode with everything needed to train on it, print it and trust it.

    A draw of `role` in its turn t came from the stream (seeds[role], *key, role, t) where the
    policy samples here; seeds["env"] made the task. `shadow` is what a stricter verifier said,
    where one was asked: nothing that trains reads it.
    """

    env: Mapping[str, str]
    task_id: str
    split: str
    index: int
    sample: int
    episode: Episode
    branches: dict[str, list[Branch]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    shadow: dict[str, Outcome] = field(default_factory=dict, kw_only=True)
    tags: Mapping[str, str] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    key: tuple[Key, ...] = ()
    seeds: Mapping[str, int] = field(default_factory=dict)

    def to_json(self, tokens: bool = True) -> dict[str, Any]:
        """A record for `episodes.jsonl`; `tokens=False` leaves the token branches out."""
        out: dict[str, Any] = {
            "schema": SCHEMA,
            "env": dict(self.env),
            "task": self.task_id,
            "split": self.split,
            "index": self.index,
            "sample": self.sample,
            "key": list(self.key),
            "seeds": dict(self.seeds),
            "ended": self.episode.ended,
            "transcript": [{"speaker": who, **m.to_json()} for who, m in self.episode.transcript],
            "artifacts": {name: _sha256(data) for name, data in self.episode.artifacts.items()},
            "outcomes": {role: to_json(o) for role, o in self.outcomes.items()},
            "shadow": {role: to_json(o) for role, o in self.shadow.items()},
            "tags": dict(self.tags),
            "usage": self.usage,
        }
        if tokens:
            shown = list(images_of([m for _, m in self.episode.transcript]))
            seen = [p.part for bs in self.branches.values() for b in bs for p in b.pictures]
            others = [image for image in dict.fromkeys(seen) if image not in shown]
            if others:  # that an agent showed its policy
                out["images"] = [vars(image) for image in others]
            shown += others
            out["branches"] = {r: [b.to_json(shown) for b in bs] for r, bs in self.branches.items()}
        return out

    @staticmethod
    def from_json(data: Mapping[str, Any], artifacts: Path | None = None) -> Trajectory:
        """Read a record of this schema or the one before.

        `artifacts` is where `save_artifacts` put them; without it they are left out.
        """
        kept = {}
        if artifacts is not None:
            kept = {n: (artifacts / digest).read_bytes() for n, digest in data["artifacts"].items()}
        transcript = tuple((t["speaker"], Message.from_json(t)) for t in data["transcript"])
        shown = [*images_of([m for _, m in transcript])]
        shown += [Image(**image) for image in data.get("images", ())]
        branches = {
            role: [
                Branch(
                    list(b["ids"]),
                    [bool(m) for m in b["mask"]],
                    list(b["logprobs"]),
                    list(b["versions"]),
                    _routes(b.get("routes")),
                    [Picture(shown[n], at) for at, n in b.get("pictures", ())],
                )
                for b in found
            ]
            for role, found in data.get("branches", {}).items()
        }
        return Trajectory(
            env=data["env"],
            task_id=data["task"],
            split=data["split"],
            index=data["index"],
            sample=data["sample"],
            episode=Episode(data["task"], transcript, kept, data["ended"]),
            branches=branches,
            outcomes={r: from_json(o) for r, o in data["outcomes"].items()},
            shadow={r: from_json(o) for r, o in data.get("shadow", {}).items()},
            tags=data["tags"],
            usage=dict(data["usage"]),
            key=tuple(data.get("key", ())),
            seeds=data.get("seeds", {}),
        )


def save_artifacts(trajectory: Trajectory, directory: Path) -> dict[str, str]:
    """Write each artifact to `directory`/SHA-256, once; the names with their hashes."""
    out = {}
    for name, data in trajectory.episode.artifacts.items():
        out[name] = _sha256(data)
        path = directory / out[name]
        if not path.exists():
            directory.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
    return out


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _routes(data: Mapping[str, Any] | None) -> np.ndarray[Any, Any] | None:
    if data is None:
        return None
    flat = np.frombuffer(base64.b64decode(data["data"]), dtype=np.uint8)
    return flat.reshape(data["shape"]).astype(np.int16)
