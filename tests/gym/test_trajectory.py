"""Trajectories: tokens as sampled, append-only, branches where the history is edited, JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from toy_game import TOKENIZER, Guess, Speaker, bisect, play

from puna.core.messages import Message
from puna.core.outcome import Infra, Scored
from puna.engine.policy import SamplingParams
from puna.gym.environment import say
from puna.gym.loop import Job
from puna.gym.seat import SamplerSeat, Scripted
from puna.gym.trajectory import Branch, Episode, Trajectory, save_artifacts
from puna.text.template import render

ASK = Message.user("Guess it.")


def seat(finish: str = "stop", says: str = "abc") -> tuple[SamplerSeat, Speaker]:
    speaker = Speaker(lambda prompt, key: says, finish)
    return SamplerSeat(speaker, SamplingParams(8), ("k",)), speaker


def reply(a_seat: SamplerSeat, *messages: Message, tools: Any = ()) -> Message:
    return asyncio.run(a_seat.reply(messages, tools))


def test_ids_are_kept_as_sampled_and_only_appended_to() -> None:
    """Sampled byte by byte: encoding the same text again would give other tokens."""
    a_seat, speaker = seat()
    split = [TOKENIZER.encode(c)[0] for c in "higher"]
    assert TOKENIZER.encode("higher") != split
    speaker.tokenizer = TOKENIZER
    original = speaker.sample

    async def bytewise(prompt: Any, params: Any, key: Any, pictures: Any = ()) -> Any:
        done = await original(prompt, params, key)
        ids = (*split, TOKENIZER.special("eot"))
        return type(done)(ids, (-0.25,) * len(ids), 4, "stop")

    speaker.sample = bytewise  # type: ignore[method-assign]
    first = reply(a_seat, ASK)
    assert first.text == "higher"
    before = list(a_seat.branches[0].ids)
    second = reply(a_seat, ASK, first, Message.user("more"))
    assert len(a_seat.branches) == 1
    branch = a_seat.branches[0]
    assert branch.ids[: len(before)] == before
    assert speaker.calls[1][0][: len(before)] == tuple(before)
    sampled = [i for i, m in zip(branch.ids, branch.mask, strict=True) if m]
    assert sampled == [*split, TOKENIZER.special("eot")] * 2
    assert {v for v, m in zip(branch.versions, branch.mask, strict=True) if m} == {4}
    assert {x for x, m in zip(branch.logprobs, branch.mask, strict=True) if m} == {-0.25}
    again = render(TOKENIZER, [ASK, first, Message.user("more"), second], open_turn=False).ids
    assert TOKENIZER.decode(branch.ids) == TOKENIZER.decode(again)
    assert branch.ids != again


def test_what_is_sampled_next_follows_exactly_what_the_branch_holds() -> None:
    (group,) = play(
        Guess(), dict.fromkeys(Guess.roles, Speaker(lambda p, k: "7" if "Pick" in p else "3")),
        [Job("test", 0)],
    )  # fmt: skip
    branch = group.trajectories[0].branches["guesser"][0]
    text = TOKENIZER.decode(branch.ids, skip_special=True)
    assert text.count("higher") == branch.ids.count(TOKENIZER.special("eot")) // 2 - 1
    sampled = [i for i, m in zip(branch.ids, branch.mask, strict=True) if m]
    assert sampled == [*TOKENIZER.encode("3"), TOKENIZER.special("eot")] * 11
    assert not branch.mask[0]


def test_a_cut_turn_is_closed_by_an_eot_that_nobody_sampled() -> None:
    a_seat, speaker = seat("length")
    first = reply(a_seat, ASK)
    reply(a_seat, ASK, first, Message.user("more"))
    branch, end = a_seat.branches[0], TOKENIZER.special("eot")
    start = len(speaker.calls[0][0]) + len(TOKENIZER.encode("abc"))
    assert (branch.ids[start], branch.mask[start], branch.versions[start]) == (end, False, -1)
    whole = render(TOKENIZER, [ASK, first, Message.user("more")], open_turn=True).ids
    assert list(speaker.calls[1][0]) == whole


def test_an_edited_history_makes_a_second_branch() -> None:
    a_seat, speaker = seat()
    first = reply(a_seat, ASK)
    reply(a_seat, ASK, Message.assistant("I said something else"), Message.user("more"))
    assert len(a_seat.branches) == 2
    assert a_seat.branches[0].ids[: len(speaker.calls[0][0])] == list(speaker.calls[0][0])
    fresh = render(
        TOKENIZER, [ASK, Message.assistant("I said something else"), Message.user("more")],
        open_turn=True,
    ).ids  # fmt: skip
    assert list(speaker.calls[1][0]) == fresh
    reply(a_seat, ASK)  # shortened: also an edit
    assert len(a_seat.branches) == 3
    assert first.text == "abc"


def test_other_tools_make_another_branch() -> None:
    a_seat, _ = seat()
    tool = {"function": {"name": "f", "parameters": {}}}
    first = reply(a_seat, ASK, tools=[tool])
    second = reply(a_seat, ASK, first, Message.user("on"), tools=[tool])
    assert len(a_seat.branches) == 1
    reply(a_seat, ASK, first, Message.user("on"), second, Message.user("on"))
    assert len(a_seat.branches) == 2


ints = st.integers(0, 255)
branches = st.lists(
    st.tuples(ints, st.booleans(), st.floats(-50, 0).map(lambda x: round(x, 6)), ints), max_size=9
)


@given(branches, st.none() | st.integers(0, 5))
def test_json_round_trip(tokens: list[tuple[int, bool, float, int]], layers: int | None) -> None:
    branch = Branch(*(list(column) for column in zip(*tokens, strict=True))) if tokens else Branch()
    if layers is not None:
        branch.routes = np.arange(len(tokens) * layers).reshape(len(tokens), layers) % 16
    made = Trajectory(
        {"name": "guess", "version": "1.0", "hash": "h"},
        "guess/test/0",
        "test",
        0,
        3,
        Episode("guess/test/0", (("env", ASK), ("agent", Message.assistant("x"))), {}, "turns"),
        {"agent": [branch]},
        {"agent": Scored(0.5, False, {"a": 1.0}, "why"), "other": Infra("down")},
        {"terms": "2"},
        {"sampled_tokens": 3.0},
        ("rl", 3, "guess", "test", 0, 3),
        {"env": 0, "agent": 7},
        shadow={"agent": Scored(0.25, False)},
    )
    again = Trajectory.from_json(json.loads(json.dumps(made.to_json())))
    assert again.to_json() == made.to_json()
    assert again.outcomes == made.outcomes
    assert again.shadow == made.shadow
    assert again.episode == made.episode
    kept = again.branches["agent"][0]
    assert (kept.ids, kept.mask, kept.logprobs) == (branch.ids, branch.mask, branch.logprobs)
    if layers is not None:
        assert np.array_equal(kept.routes, branch.routes)
    assert "branches" not in made.to_json(tokens=False)


def test_artifacts_are_recorded_by_content() -> None:
    def digest(data: bytes) -> str:
        made = Trajectory({}, "t", "test", 0, 0, Episode("t", (), {"db": data}))
        return made.to_json()["artifacts"]["db"]

    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest(b"x") != digest(b"y")


def test_artifacts_are_saved_by_hash_and_read_back(tmp_path: Path) -> None:
    (group,) = play(
        Guess(), {"proposer": Scripted(say("7")), "guesser": Scripted(bisect)}, [Job("test", 0)]
    )
    (made,) = group.trajectories
    names = save_artifacts(made, tmp_path / "artifacts")
    record = json.loads(json.dumps(made.to_json()))
    assert record["artifacts"] == names
    assert (tmp_path / "artifacts" / names["log"]).read_bytes() == b"[7, [7]]"
    again = Trajectory.from_json(record, tmp_path / "artifacts")
    assert again.episode == made.episode
    assert save_artifacts(again, tmp_path / "artifacts") == names
    assert Trajectory.from_json(record).episode.artifacts == {}


def test_the_record_of_the_schema_before_is_read() -> None:
    record = Trajectory({}, "t", "test", 0, 0, Episode("t", ())).to_json()
    assert record["schema"] == 3
    old = {k: v for k, v in record.items() if k != "shadow"} | {"schema": 2}
    assert Trajectory.from_json(old).to_json() == record


def test_a_record_names_its_streams_and_seeds() -> None:
    speaker = Speaker(lambda p, k: "7" if "Pick" in p else "3")
    speaker.seed = 5  # type: ignore[attr-defined]
    job = Job("test", 1, 2, ("rl", 9))
    (group,) = play(Guess(seed=4), dict.fromkeys(Guess.roles, speaker), [job])
    record = group.trajectories[1].to_json()
    assert record["key"] == ["rl", 9, "guess", "test", 1, 1]
    assert record["seeds"] == {"env": 4, "proposer": 5, "guesser": 5}
    assert (*record["key"], "proposer", 0) in [key for _, key, _ in speaker.calls]
