"""One episode as its page tells it: its tokens with their probabilities, and what it changed.

`full(run, stage, index.episode(3))`; `stage` is the one whose directory the journal is in.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError
from puna.report.markup import number
from puna.report.read import Run, Stage, mapping, sequence
from puna.serve.artifacts import changes

if TYPE_CHECKING:
    from puna.gym.environment import Environment
    from puna.text.tokenizer import Tokenizer

_DIGEST = re.compile("[0-9a-f]{64}")
_PART = 4  # bytes of a character at most, so tokens that may have to be read together


def full(run: Run, stage: Stage, shot: Mapping[str, Any]) -> dict[str, Any]:
    """The episode with `tokens` by role, and `changes` (None where it left no artifacts)."""
    left = [k for k in shot if k not in ("branches", "artifacts", "seeds", "env", "index")]
    out: dict[str, Any] = {key: shot[key] for key in left}
    out["tokens"], out["tokens_lost"] = {}, ""
    if shot["branches"]:
        tokenizer = _tokenizer(run, stage)
        if tokenizer is None:
            out["tokens_lost"] = "the stage's tokenizer is not there yet"
        else:
            roles = shot["branches"].items()
            out["tokens"] = {r: [pieces(tokenizer, b) for b in sequence(bs)] for r, bs in roles}
    else:
        out["tokens_lost"] = "its tokens were not kept"
    after = dict(_kept(stage.dir / "artifacts", shot["artifacts"]))
    out["changes"] = changes(opening(stage, shot), after) if after else None
    return out


def pieces(tokenizer: Tokenizer, branch: object) -> list[list[Any]]:
    """[text, log-probability] of each token, None for the latter where it was not sampled.

    A character that several tokens make stands with the last of them, the others have no text.
    """
    found = mapping(branch)
    ids, mask, logprobs = (sequence(found.get(k)) for k in ("ids", "mask", "logprobs"))
    out: list[list[Any]] = []
    waiting, text = list[int](), ""
    for token, sampled, logprob in zip(ids, mask, logprobs, strict=False):
        waiting.append(token)
        try:
            text = tokenizer.decode(waiting, skip_special=False)
        except (TypeError, OverflowError, ValueError):
            text = "\ufffd"
        whole = not text.endswith("\ufffd") or len(waiting) == _PART
        out.append([text if whole else "", number(logprob) if sampled else None])
        waiting = [] if whole else waiting
    if waiting:
        out[-1][0] = text
    return out


def _tokenizer(run: Run, stage: Stage) -> Tokenizer | None:
    """That of the stage, or while it is not finished, of the nearest parent that has one."""
    asked: list[Stage | None] = [stage]
    for one in asked:  # grows
        if one is not None and (one.dir / "model" / "tokenizer.json").exists():
            with contextlib.suppress(UserError):
                return _loaded(one.dir / "model", (one.dir / "model").stat().st_mtime_ns)
        if one is not None and len(asked) < 100:
            asked += [run.stage(parent) for parent in one.parents]
    return None


@lru_cache(maxsize=4)
def _loaded(directory: Path, written: int) -> Tokenizer:
    from puna.text.tokenizer import Tokenizer

    return Tokenizer.load(directory)


def _kept(folder: Path, named: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Artifacts that are there; a name that is no digest leads nowhere."""
    for name, digest in named.items():
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            with contextlib.suppress(OSError):
                yield str(name), (folder / digest).read_bytes()


def opening(stage: Stage, shot: Mapping[str, Any]) -> dict[str, bytes] | None:
    """The artifacts before anybody has spoken: those of the same task, begun anew.

    None where that cannot be known: the environment is a file (code that came with a run is not
    run to look at it), needs more isolation than this process, or has changed since.
    """
    given = shot["env"]
    digest = str(given.get("hash", "")) if isinstance(given, Mapping) else str(given)
    seed = shot["seeds"].get("env", stage.record.get("seed", 0))
    config = mapping(stage.record.get("config"))
    for named in (config.get("env"), *sequence(config.get("envs"))):
        settings = {"id": named} if isinstance(named, str) else dict(mapping(named))
        try:
            env = _environment(str(settings.pop("id", "")), settings, int(seed))
            if env is not None and getattr(env, "content_hash", "") == digest:
                return _begun(env, str(shot["split"]), int(shot["index"]))
        except Exception:  # an environment's own code may raise anything
            continue
    return None


def _environment(name: str, settings: Mapping[str, Any], seed: int) -> Environment | None:
    from puna.gym.registry import known_environments, load_environment

    if name not in known_environments():
        return None
    env = load_environment(name, settings, seed)
    return env if env.tier == "process" else None


def _begun(env: Environment, split: str, index: int) -> dict[str, bytes]:
    from puna.gym.loop import Context

    resources = env.setup()
    try:
        with contextlib.closing(env.start(env.task(split, index), resources, Context())) as session:
            return dict(session.artifacts())
    finally:
        env.teardown(resources)
