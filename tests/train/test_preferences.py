"""Rows of preferences, and pairs of a model's own episodes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Invalid, Scored
from puna.core.stage import Machine
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler
from puna.evals import playing
from puna.gym.environment import Problem, SingleTurn
from puna.gym.loop import Group, Job
from puna.gym.registry import load_environment
from puna.gym.trajectory import Branch, Episode, Trajectory
from puna.text.template import render
from puna.train.preferences import (
    Played,
    load_played,
    pairs_of,
    play_pairs,
    read_preferences,
    save_played,
    tokenise,
)

ASK = {"role": "user", "content": "2+2="}
BRIEF = {"role": "system", "content": "be brief"}
FOUR, FIVE = ({"role": "assistant", "content": x} for x in "45")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
GOOD = {"prompt": [ASK], "chosen": [FOUR], "rejected": [FIVE]}


def rows(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return read_preferences(path)


def test_every_form_of_a_row_is_the_same(tmp_path):
    found = rows(
        tmp_path / "a.jsonl",
        GOOD,
        "",
        {"prompt": "2+2=", "chosen": "4", "rejected": "5", "score": "is let be"},
        {"chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"prompt": "2+2=", "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"prompt": None, "chosen": [ASK, FOUR], "rejected": [ASK, FIVE], "tools": None},
    )
    row = found[0]
    assert row.prompt == (Message.user("2+2="),)
    assert (row.chosen, row.rejected) == ((Message.assistant("4"),), (Message.assistant("5"),))
    assert found == [row] * 5


def test_conversations_part_where_the_assistants_differ(tmp_path):
    (row,) = rows(
        tmp_path / "a.jsonl",
        {
            "chosen": [BRIEF, ASK, FOUR, ASK, FOUR, ASK, FOUR],
            "rejected": [BRIEF, ASK, FOUR, ASK, FIVE],
            "tools": json.dumps([TOOL]),
        },
    )
    assert [m.text for m in row.prompt] == ["be brief", "2+2=", "4", "2+2="]
    assert [m.text for m in row.chosen] == ["4", "2+2=", "4"]
    assert [m.text for m in row.rejected] == ["5"]
    assert list(row.tools) == [TOOL]


def test_a_side_that_goes_on_where_the_other_ends(tmp_path):
    whole = [ASK, FOUR, ASK, FIVE]
    (row,) = rows(tmp_path / "a.jsonl", {"chosen": whole[:2], "rejected": whole})
    assert (len(row.prompt), len(row.chosen), len(row.rejected)) == (1, 1, 3)


CALL = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "add"}}]}
SAME_CALL = {"role": "assistant", "tool_calls": [{"id": "b", "function": {"name": "add"}}]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GOOD | {"rejected": [FOUR]}, "chosen and rejected are equal"),
        ({"prompt": "2+2=", "chosen": "4", "rejected": "4"}, "chosen and rejected are equal"),
        ({"chosen": [ASK, FOUR], "rejected": [ASK, FOUR]}, "chosen and rejected are equal"),
        (GOOD | {"chosen": [CALL], "rejected": [SAME_CALL]}, "chosen and rejected are equal"),
        ({"chosen": [ASK, FOUR]}, "no 'rejected'"),
        ({"prompt": "2+2=", "rejected": "5"}, "no 'chosen'"),
        ({"chosen": "2+2=4", "rejected": "2+2=5"}, "no 'prompt'"),
        (GOOD | {"prompt": []}, "the prompt is empty"),
        (GOOD | {"prompt": 5}, ""),
        (GOOD | {"chosen": []}, "chosen must be a text or a list of messages"),
        (GOOD | {"chosen": 5}, "chosen must be a text or a list of messages"),
        (GOOD | {"chosen": ["4"]}, ""),
        (GOOD | {"chosen": [ASK, FOUR]}, "chosen goes on with a user turn, so the prompts differ"),
        ({"chosen": [BRIEF, FOUR], "rejected": [ASK, FIVE]}, "so the prompts differ"),
        ({"chosen": [ASK, BRIEF, FOUR], "rejected": [ASK, FIVE]}, "so the prompts differ"),
        ({"chosen": [FOUR], "rejected": [FIVE]}, "the prompt is empty"),
        ({"prompt": "3+3=", "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]}, "begin with the prom"),
        (GOOD | {"chosen": [FOUR, ASK]}, "chosen does not end with an assistant turn"),
        (GOOD | {"rejected": [{"role": "king", "content": ""}]}, "role is 'king'"),
        (GOOD | {"rejected": [{"role": "assistant", "content": 5}]}, "content is int"),
        (GOOD | {"tools": "{oops"}, ""),
        (GOOD | {"tools": 5}, ""),
        (GOOD | {"tools": [5]}, ""),
        ([GOOD], "a row must be an object, not list"),
        ("[" * 100_000, "not JSON"),
        ('{"chosen": NaN', "not JSON"),
    ],
)
def test_every_complaint_is_one_line_with_file_and_row(tmp_path, row, said):
    with pytest.raises(UserError) as caught:
        rows(tmp_path / "pairs.jsonl", GOOD, "", row, GOOD)
    text = str(caught.value)
    assert "pairs.jsonl line 3: " in text
    assert said in text
    assert "\n" not in text


def test_what_is_not_utf8_is_named_by_its_row(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + b'{"prompt": "\xff"}')
    with pytest.raises(UserError, match=r"pairs.jsonl line 3 is not UTF-8 text"):
        read_preferences(path)


def test_tokens_of_a_row_are_those_of_the_whole_conversation(tokenizer, tmp_path):
    """Only what the assistant says after the prompt is learnt, not its earlier turns."""
    (row,) = rows(
        tmp_path / "a.jsonl",
        {"chosen": [ASK, FOUR, ASK, FOUR], "rejected": [ASK, FOUR, ASK, FIVE], "tools": [TOOL]},
    )
    pair = tokenise(tokenizer, row)
    for side, said in ((pair.chosen, row.chosen), (pair.rejected, row.rejected)):
        whole = render(tokenizer, (*row.prompt, *said), tools=row.tools)
        assert side[0].ids == whole.ids
        assert sum(whole.mask) == 4
        learnt = [i for i, m in zip(side[0].ids, side[0].mask, strict=True) if m]
        assert learnt == [*tokenizer.encode(said[0].text), tokenizer.special("eot")]


def group(*outcomes, role="agent"):
    """Episodes of one task; the number of an episode is its one sampled token."""
    trajectories = []
    for number, outcome in enumerate(outcomes):
        branch = Branch()
        branch.extend_prompt([100, 101])
        branch.extend_sampled((number,), (-1.0,), 0)
        episode = Episode("t", ())
        found = Trajectory({}, "t", "train", 0, number, episode, {role: [branch]}, {role: outcome})
        trajectories.append(found)
    return Group(Job("train", 0, len(outcomes)), None, trajectories)


def sampled(pairs):
    return [(p.chosen[0].ids[-1], p.rejected[0].ids[-1]) for p in pairs]


WON, LOST = Scored(1.0, True), Scored(0.0, False)


@pytest.mark.parametrize(
    ("outcomes", "pair"),
    [
        ((LOST, WON), [(1, 0)]),
        ((LOST, LOST, WON, WON), [(2, 0)]),
        ((WON, WON), []),
        ((LOST, Scored(0.5, False)), []),  # no success
        ((WON, Scored(1.0, False)), []),  # equal value
        ((Scored(0.4, True), Scored(0.6, False), WON), [(2, 1)]),  # the success is worth more
        ((Infra("down"), WON), []),
        ((WON, Invalid("no answer")), []),
        ((Infra("down"), WON, LOST), [(1, 2)]),
    ],
)
def test_a_success_and_a_failure_of_one_task(outcomes, pair):
    assert sampled(pairs_of(group(*outcomes))) == pair


def test_pairs_are_of_one_role():
    """What one role won and another lost is no pair."""
    ours, theirs = group(WON, WON), group(LOST, LOST, role="other")
    for a, b in zip(ours.trajectories, theirs.trajectories, strict=True):
        a.branches |= b.branches
        a.outcomes |= b.outcomes
    assert pairs_of(ours) == []
    ours.trajectories[1].outcomes["other"] = WON
    assert sampled(pairs_of(ours)) == [(1, 0)]


def test_every_branch_counts_but_not_those_where_nothing_was_sampled():
    found = group(WON, LOST)
    branches = found.trajectories[0].branches["agent"]
    silent = Branch()
    silent.extend_prompt([100])
    branches += [silent, replace(branches[0])]
    (pair,) = pairs_of(found)
    assert [len(part.ids) for part in pair.chosen] == [3, 3]
    assert pair.chosen[0].mask == [False, False, True]


def test_episodes_that_say_the_same_are_no_pair():
    """A verifier that gives two verdicts on one answer has nothing to teach."""
    found = group(WON, LOST)
    found.trajectories[1].branches = found.trajectories[0].branches
    assert pairs_of(found) == []


@pytest.mark.parametrize("form", ["The answer is {}", "{0} {0}", "{} 1", "{}."])
def test_a_right_answer_in_form_against_the_same_one_out_of_form(form):
    """The last stage of a post-training: what is verified and well-formed is preferred."""
    env = load_environment("skills", {"skill": "sorting", "level": 1})
    task = env.task("train", 0)
    right = task.hidden["problem"].answer
    said = [form.format(right), right]
    episodes = [Episode(task.id, (("agent", Message.assistant(t)),), {}, "done") for t in said]
    found = group(*(v["agent"] for v in env.judge(episodes, task.hidden, None)))
    assert sampled(pairs_of(found)) == [(1, 0)]


class Even(SingleTurn):
    """Pays where the answer's bytes add up to an even number; task 2 is beyond its verifier."""

    name = "even"

    def make(self, rng):
        return Problem(f"{rng.integers(10**6)}?", "")

    def task(self, split, index):
        task = super().task(split, index)
        return replace(task, hidden=dict(task.hidden) | {"i": index})

    def judge(self, episodes, hidden, ctx):
        if hidden["i"] == 2:
            raise ConnectionError("the grader is down")
        values = [1.0 - sum(e.said().encode()) % 2 for e in episodes]
        return [{"agent": Scored(v, v == 1.0)} for v in values]


class Ending(LocalSampler):
    """Every answer counts as ended: a cut-off one ends the episode, and few end by themselves."""

    async def sample(self, prompt_ids, params, key, pictures=()):
        return replace(await super().sample(prompt_ids, params, key), finish="stop")


@pytest.fixture
def play(ctx, new_model, tokenizer, monkeypatch):
    real = playing.local_policy

    def ending(*args):
        sampler, meet = real(*args)
        return Ending(sampler.engine, meet), meet

    monkeypatch.setattr(playing, "local_policy", ending)

    def run(workers=2, seed=0):
        jobs = [Job("train", i, 6, ("dpo",)) for i in range(4)]
        mine = replace(ctx, seed=seed, machine=Machine(workers=workers))
        return play_pairs(mine, Even(), new_model(), tokenizer, jobs, SamplingParams(3, 1.0))

    return run


def test_pairs_of_a_toy_environment(play, tokenizer):
    found = play()
    assert (found.tasks, len(found.pairs), found.tasks_without) == (4, 3, 1)
    assert found.not_scored == pytest.approx(0.25)
    assert "the grader is down" in found.failure
    stops = {tokenizer.special(n) for n in ("eot", "eom", "end_of_text")}
    for pair in found.pairs:
        parity = []
        for (side,) in (pair.chosen, pair.rejected):
            start = side.mask.index(True)
            assert side.mask == [False] * start + [True] * (len(side.ids) - start)
            said = [i for i in side.ids[start:] if i not in stops]
            parity.append(sum(tokenizer.decode(said, skip_special=False).encode()) % 2)
        assert parity == [0, 1]
        (chosen,), (rejected,) = pair.chosen, pair.rejected
        assert chosen.ids[: chosen.mask.index(True)] == rejected.ids[: rejected.mask.index(True)]


def test_pairs_follow_from_the_seed_and_not_from_the_workers(play):
    assert play(1).pairs == play(4).pairs
    assert play(seed=1).pairs != play(seed=0).pairs


def test_saved_pairs_are_found_under_their_key_only(play, tmp_path):
    path, found = tmp_path / "pairs.json", play()
    save_played(path, "a", found)
    assert load_played(path, "a") == found
    assert load_played(path, "b") is None
    assert load_played(tmp_path / "none.json", "a") is None
    path.write_bytes(path.read_bytes()[:-9])
    assert load_played(path, "a") is None
    save_played(path, "a", Played([], 3, 3, 0.0))
    assert load_played(path, "a") == Played([], 3, 3, 0.0)
