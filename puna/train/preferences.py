"""Preference pairs: the user's rows, or a success and a failure among a model's own episodes.

`read_preferences(Path("pairs.jsonl"))` gives messages; `tokenise(tokenizer, row)` and
`play_pairs(ctx, env, model, tokenizer, jobs, params)` give tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.files import json_bytes, write_bytes
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.core.stage import StageContext, Stopwatch
from puna.engine.policy import SamplingParams
from puna.evals.playing import failed_share, figures, first_failure, play_tasks
from puna.gym.environment import Environment
from puna.gym.loop import Group, Job
from puna.models.decoder import Decoder
from puna.text.images import images_of
from puna.text.template import Rendered, render
from puna.text.tokenizer import MIN_VOCAB, Tokenizer
from puna.train.data import read_rows, tools_of, turns_of
from puna.train.pairs import Pair

SCHEMA = 1
_EXAMPLE = '{"prompt": [messages], "chosen": [messages], "rejected": [messages]}'


@dataclass(frozen=True)
class Preference:
    """One row: what was said before, and two ways to go on that end with the assistant."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Played:
    """Pairs of episodes, how many tasks were played and gave none, and why no more were scored.

    `cpu` and `wall` are the seconds it took.
    """

    pairs: list[Pair]
    tasks: int
    tasks_without: int
    not_scored: float
    failure: str = ""
    cpu: float = 0.0
    wall: float = 0.0


def read_preferences(path: Path) -> list[Preference]:
    """Rows of a JSONL or Parquet file as TRL has them: `chosen`, `rejected`, `prompt`, `tools`.

    Without `prompt`, or with a text that repeats the question, both sides are whole conversations
    and what they share is the prompt. Raises UserError naming the file and the first wrong line.
    """
    return read_rows(path, _preference, _EXAMPLE)


def _preference(row: Any) -> Preference:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object, not {type(row).__name__}")
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise ValueError(f"no '{name}'")
    chosen, rejected = _side(row["chosen"], "chosen"), _side(row["rejected"], "rejected")
    tools, given = tools_of(row), row.get("prompt")
    whole = chosen[0].role != "assistant" and rejected[0].role != "assistant"
    if given is not None and not (isinstance(given, str) and whole):
        prompt = tuple(Message.from_openai(m) for m in turns_of(given, "user"))
    elif isinstance(row["chosen"], str) or isinstance(row["rejected"], str):
        raise ValueError("no 'prompt', which sides that are texts need")
    else:
        _refuse_equal((), chosen, rejected, tools)
        prompt = _shared(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if given is not None and given.strip() not in (m.text.strip() for m in prompt):
            raise ValueError("the sides do not begin with the prompt")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if side[0].role != "assistant":
            raise ValueError(f"{name} goes on with a {side[0].role} turn, so the prompts differ")
        if side[-1].role != "assistant":
            raise ValueError(f"{name} does not end with an assistant turn")
    if not prompt:
        raise ValueError("the prompt is empty")
    if next(images_of((*prompt, *chosen, *rejected)), None) is not None:
        raise ValueError("images in preferences are not supported yet")
    _refuse_equal(prompt, chosen, rejected, tools)
    return Preference(prompt, chosen, rejected, tools)


def _side(given: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(given, str | list) or given == []:
        raise ValueError(f"{name} must be a text or a list of messages that is not empty")
    return tuple(Message.from_openai(m) for m in turns_of(given, "assistant"))


def _shared(a: Sequence[Message], b: Sequence[Message]) -> tuple[Message, ...]:
    """The messages that both begin with, and at least one of each left over."""
    count = 0
    while count < min(len(a), len(b)) - 1 and a[count] == b[count]:
        count += 1
    return tuple(a[:count])


def _refuse_equal(
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
) -> None:
    """Raises ValueError where a model would see no difference, whatever the messages say."""
    row = Preference(tuple(prompt), tuple(chosen), tuple(rejected), tuple(tools))
    pair = tokenise(_letters(), row)
    if pair.chosen == pair.rejected:
        raise ValueError("chosen and rejected are equal")


@functools.cache
def _letters() -> Tokenizer:
    return Tokenizer.train((), MIN_VOCAB)


def tokenise(tokenizer: Tokenizer, row: Preference) -> Pair:
    """The tokens of a row; True in the masks is what the assistant says after the prompt."""
    before = Rendered(*_unmasked(render(tokenizer, row.prompt, tools=row.tools).ids))
    sides = (before + render(tokenizer, s, first=False) for s in (row.chosen, row.rejected))
    return Pair(*((side,) for side in sides))


def _unmasked(ids: list[int]) -> tuple[list[int], list[bool]]:
    return ids, [False] * len(ids)


def play_pairs(
    ctx: StageContext,
    env: Environment,
    model: Decoder,
    tokenizer: Tokenizer,
    jobs: Sequence[Job],
    params: SamplingParams,
) -> Played:
    """Play `jobs` with `model` in every role and pair what came out (see `pairs_of`)."""
    watch = Stopwatch()
    groups = play_tasks(ctx, env, model, tokenizer, jobs, params, lambda group: group)
    found = [pairs_of(group) for group in groups]
    return Played(
        [pair for pairs in found for pair in pairs],
        len(jobs),
        sum(not pairs for pairs in found),
        failed_share(figures(groups, set(env.roles))),
        first_failure(groups),
        watch.cpu,
        watch.wall,
    )


def pairs_of(group: Group) -> list[Pair]:
    """At most one pair for each role: its first success, and its first failure of a lower value.

    Tokens are those sampled. Episodes that were not Scored, or that say the same, give none.
    """
    sides: dict[str, tuple[list[_Said], list[_Said]]] = {}
    for trajectory in group.trajectories:
        for role, branches in trajectory.branches.items():
            outcome = trajectory.outcomes[role]
            said = tuple(Rendered(b.ids, b.mask) for b in branches if any(b.mask))
            if isinstance(outcome, Scored) and said:
                won, lost = sides.setdefault(role, ([], []))
                (won if outcome.success else lost).append((outcome.value, said))
    out = []
    for won, lost in sides.values():
        candidates = (
            Pair(good, bad) for high, good in won for low, bad in lost if high > low and good != bad
        )
        out += [pair for pair in [next(candidates, None)] if pair is not None]
    return out


_Said = tuple[float, tuple[Rendered, ...]]


def save_played(path: Path, key: str, played: Played) -> None:
    """Write pairs for `load_played`; `key` names all that they are a function of."""
    pairs = [pair.to_json() for pair in played.pairs]
    record = {"schema": SCHEMA, "key": key, **played.__dict__, "pairs": pairs}
    write_bytes(path, json_bytes(record), "pairs")


def load_played(path: Path, key: str) -> Played | None:
    """The pairs saved under `key`; None where there are none, or those of something else."""
    try:
        record = json.loads(path.read_bytes())
        if record.pop("schema") != SCHEMA or record.pop("key") != key:
            return None
        pairs = [Pair.from_json(p) for p in record.pop("pairs")]
        return Played(pairs, **record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
