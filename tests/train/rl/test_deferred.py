"""Rows of RL: what is deferred, what counts in the loss, what goes through which experts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from puna.core.outcome import Scored
from puna.evals.playing import figures
from puna.gym.trajectory import Branch
from puna.train.rl.advantages import ALGORITHMS, REJECTING
from puna.train.rl.batch import micro_batches
from puna.train.rl.rows import (
    Deferred,
    Row,
    has_signal,
    rows_of,
    sampled_tokens,
    settle,
    useful,
    weigh,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "gym"))
from toy_game import Guess, Job, Speaker, play


def branch(prompt: int = 2, sampled: int = 3, routes: int | None = None) -> Branch:
    out = Branch()
    out.extend_prompt(list(range(5, 5 + prompt)))
    out.extend_sampled(tuple(range(20, 20 + sampled)), (-0.5,) * sampled, 0)
    if routes is not None:
        out.routes = np.full((prompt + sampled - 1, 2), routes, dtype=np.int16)
    return out


def row(value: float, episode: int, group: str = "g", role: str = "agent", **of_branch) -> Row:
    return Row(role, group, "", Scored(value, value > 0), 0, branch(**of_branch), episode)


def game(index: int = 0):
    """Four episodes: the proposer picks 1 or 3, the guesser counts upwards or says it at once."""

    def say(prompt, key):
        if key[-2] == "proposer":
            return "13"[key[-3] % 2]
        return str(1 + prompt.count("higher"))

    (group,) = play(Guess(), dict.fromkeys(Guess.roles, Speaker(say)), [Job("test", index, 4)])
    return group


def failing(xs):
    return 1 - sum(xs) / len(xs)


def deferred(rows, child, role="guesser"):
    return [replace(r, outcome=Deferred(child, role, failing)) for r in rows]


def proposers(group, name):
    return [r for r in rows_of(group, name) if r.role == "proposer"]


def test_a_proposer_is_paid_by_one_role_of_a_group_played_later():
    parent = deferred(proposers(game(), "g"), "g/child")
    child = rows_of(game(3), "g/child", parent="g")
    earned = [r.outcome.value for r in child if r.role == "guesser"]
    assert settle([*parent, *child]) == 0
    assert {r.reward for r in parent} == {failing(earned)}
    everyone = [r.outcome.value for r in child]
    assert failing(everyone) != pytest.approx(failing(earned))


def test_an_episode_counts_once_whatever_its_branches():
    child = [row(1.0, 0, "c"), row(1.0, 0, "c"), row(1.0, 0, "c"), row(0.0, 1, "c")]
    (parent,) = deferred([row(0.0, 0)], "c", "agent")
    settle([parent, *child])
    assert parent.reward == 0.5
    assert failing([r.outcome.value for r in child]) == 0.25


def test_rows_without_a_scored_child_are_dropped_and_counted():
    lost, paid = deferred(proposers(game(), "g"), "nowhere"), proposers(game(), "h")
    used, unsettled = useful([lost, paid], {"proposer"})
    assert unsettled == len(lost) == 4
    assert list(used) == [1]
    assert {r.reward for r in lost} == {None}


def test_a_step_is_settled_before_its_signal_is_asked_for():
    """Two proposals of one group, one found hard, one easy; the child groups come behind."""
    parent = [
        *deferred([row(0.0, 0, role="proposer")], "hard"),
        *deferred([row(0.0, 1, role="proposer")], "easy"),
    ]
    children = [[row(v, i, name, "guesser") for i in (0, 1)] for name, v in
                (("hard", 0.0), ("easy", 1.0))]  # fmt: skip
    used, unsettled = useful([parent, *children], {"proposer"})  # the guesser is frozen
    assert unsettled == 0
    assert {n: [r.reward for r in rows] for n, rows in used.items()} == {0: [1.0, 0.0]}
    alone, _ = useful([parent], {"proposer"})
    assert alone == {}


def test_a_branch_without_a_sampled_token_gives_no_row():
    group = game()
    group.trajectories[1].branches["guesser"].append(branch(sampled=0))
    group.trajectories[2].branches["guesser"] = [branch(sampled=0)]
    rows = [r for r in rows_of(group, "g") if r.role == "guesser"]
    assert [r.episode for r in rows] == [0, 1, 3]
    assert min(r.version for r in rows) >= 0


def test_all_tokens_of_a_used_group_count_and_rejected_ones_do_not():
    """Rewards 0, 1, 2: the middle one has no advantage, and is not among the best."""
    rows = [row(float(v), v, sampled=v + 1) for v in range(3)]
    settle(rows)
    assert has_signal(rows)
    for name, tokens in (("grpo", 6), ("rloo", 6), ("raft", 3)):
        kept = weigh(rows, ALGORITHMS[name], {}, name in REJECTING)
        assert sampled_tokens(kept) == tokens, name
    assert [r.advantage for r in weigh(rows, ALGORITHMS["grpo"], {})][1] == 0
    assert sampled_tokens(weigh(rows, ALGORITHMS["grpo"], {"agent": 0.0})) == 6


def test_rows_with_and_without_routes_are_not_in_one_batch():
    rows = [row(1, 0), row(1, 1, routes=3), row(1, 2, sampled=5), row(1, 3, routes=1)]
    found = list(micro_batches(rows, 1000, True, torch.device("cpu")))
    assert [b.routes_1NL is None for b in found] == [False, True]
    assert [b.tree.nodes_BT.shape[0] for b in found] == [2, 2]
    assert found[0].routes_1NL.unique().tolist() == [1, 3]
    assert sum(len(b.targets_M) for b in found) == 14
    off = list(micro_batches(rows, 1000, False, torch.device("cpu")))
    assert [b.routes_1NL for b in off] == [None]


def test_figures_are_of_the_roles_in_training():
    group = game()
    values = {role: [t.outcomes[role].value for t in group.trajectories] for role in Guess.roles}
    mine = figures([group], {"proposer"})
    assert mine["reward"] == pytest.approx(np.mean(values["proposer"]))
    assert mine["reward"] != pytest.approx(figures([group], set(Guess.roles))["reward"])
    assert mine["success"] == 0  # no number takes more than three guesses
    assert figures([group], {"guesser"})["success"] == 1
