"""Rows of answers that are made of messages: who is compared with whom, and what RAFT takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_rl_loop import gradient, make  # noqa: F401

from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.envs.math.answers import final_answer
from puna.evals.playing import figures
from puna.gym.loop import Group, Job
from puna.gym.passes import QUESTION, judge_pass
from puna.gym.task import Task
from puna.gym.trajectory import Branch, Episode, Trajectory
from puna.text.template import parse_assistant
from puna.text.tokenizer import Tokenizer
from puna.train.rl.advantages import ALGORITHMS
from puna.train.rl.rows import Row, rows_of, useful, weigh

YES, NO = f"{QUESTION} Yes", f"{QUESTION} No"
TOKENIZER = Tokenizer.train([f"#### 4\n{YES}\n{NO}"] * 9, 300)


def judged(text: str, rewards: str = "corr") -> Scored:
    return judge_pass(
        text, False, lambda s: final_answer(s) in ("4", "4.0"), lambda s: final_answer(s) != "",
        turns=4, rewards=rewards,
    )  # fmt: skip


def group(*texts: str, rewards: str = "corr", tokenizer: Tokenizer = TOKENIZER) -> Group:
    """Answers to one task whose answer is 4."""
    found = []
    for number, text in enumerate(texts):
        ids = [*tokenizer.encode(text), tokenizer.special("eot")]
        n = len(ids)
        assert parse_assistant(tokenizer, ids).text == text
        branch = Branch([1, 2, *ids], [False] * 2 + [True] * n, [0.0] * 2 + [-0.5] * n,
                        [-1] * 2 + [3] * n)  # fmt: skip
        episode = Episode("t", (("agent", Message.assistant(text)),))
        outcomes = {"agent": judged(text, rewards)}
        found.append(
            Trajectory({}, "t", "train", 0, number, episode, {"agent": [branch]}, outcomes)
        )
    return Group(Job("train", 0, len(texts)), Task("t", (), "t"), found)


def weighed(
    *texts: str, algorithm: str = "rloo", rewards: str = "corr"
) -> dict[tuple[int, str], float]:
    """(answer, message) -> advantage, of the rows that count."""
    used, unsettled = useful(
        [rows_of(group(*texts, rewards=rewards), "g", {"agent": TOKENIZER})], {"agent"}
    )
    assert not unsettled
    rows = [row for mine in used.values() for row in mine]
    out = weigh(rows, ALGORITHMS[algorithm], {}, algorithm == "raft")
    return {(row.episode, row.message): row.advantage for row in out}


def test_a_row_for_each_message_with_its_own_tokens_and_reward() -> None:
    text = f"#### 5\n{NO}\n#### 4\n{YES}"
    rows = rows_of(group(text), "g", {"agent": TOKENIZER})
    assert [(r.message, r.group, r.answers) for r in rows] == [
        (m, f"g/{m}", "g") for m in ("solver 1", "verifier 1", "solver 2", "verifier 2")
    ]
    assert [r.outcome.value for r in rows] == [0, 1, 1, 1]  # type: ignore[union-attr]
    assert {(r.role, r.version, r.episode) for r in rows} == {("agent", 3, 0)}
    said = [
        TOKENIZER.decode([i for i, m in zip(r.branch.ids, r.branch.mask, strict=True) if m])
        for r in rows
    ]
    assert said == ["#### 5\n", NO, "\n#### 4\n", YES]
    whole = group(text).trajectories[0].branches["agent"][0].mask
    assert [sum(column) for column in zip(*(r.branch.mask for r in rows), strict=True)] == whole


def test_who_leaves_a_verdict_or_a_solution_out_is_charged_for_the_end() -> None:
    """The token that ends the answer there is a message of its own, and earns nothing; else right
    solutions would be paid for ending without a verdict."""
    for text, left_out in (("#### 4", "verifier 1"), (f"#### 5\n{NO}", "solver 2")):
        rows = rows_of(group(text), "g", {"agent": TOKENIZER})
        assert rows[-1].message == left_out
        assert rows[-1].outcome == Scored(0.0, False)
        ids = [i for i, m in zip(rows[-1].branch.ids, rows[-1].branch.mask, strict=True) if m]
        assert ids == [TOKENIZER.special("eot")]
        assert not any(r.branch.mask[-1] for r in rows[:-1])
    found = weighed("#### 4", f"#### 4\n{YES}", f"#### 4\n{YES}")
    assert [found[i, "solver 1"] for i in range(3)] == [0, 0, 0]
    assert [found[i, "verifier 1"] for i in range(3)] == pytest.approx([-1, 0.5, 0.5])


def test_baselines_never_mix_turns_or_speakers() -> None:
    """Turn 2 is right twice as often as turn 1: against a common baseline all of it would gain."""
    texts = [
        f"#### 5\n{NO}\n#### 4\n{YES}",
        f"#### 6\n{NO}\n#### 4\n{YES}",
        f"#### 7\n{NO}\n#### 8\n{YES}",
        f"#### 4\n{YES}",
    ]
    found = weighed(*texts)
    assert [found[i, "solver 1"] for i in range(4)] == pytest.approx([-1 / 3] * 3 + [1])
    assert [found[i, "solver 2"] for i in range(3)] == pytest.approx([0.5, 0.5, -1])
    assert [found[i, "verifier 2"] for i in range(3)] == pytest.approx([0.5, 0.5, -1])
    assert [found[i, "verifier 1"] for i in range(4)] == [0] * 4
    pooled = ALGORITHMS["rloo"]([0, 1, 0, 1, 0, 0, 1])  # what mixing the solver's turns would say
    assert pooled[1] - found[0, "solver 2"] > 0.1


def test_the_paper_divides_by_the_deviation() -> None:
    """A = (r - mean) / std over the answers that have a message of that turn."""
    found = weighed(f"#### 4\n{YES}", f"#### 5\n{NO}\n#### 4\n{YES}", algorithm="grpo")
    assert found[0, "solver 1"] == pytest.approx(1, abs=1e-5)
    assert found[1, "solver 1"] == pytest.approx(-1, abs=1e-5)
    assert found[1, "solver 2"] == 0  # alone, compared with nothing


@pytest.mark.parametrize("rewards", ["corr", "last", "all"])
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_erring_first_never_pays(rewards: str, algorithm: str) -> None:
    """A first solution that is right gains as much as any other, however many corrected themselves;
    paid for its own correctness, as much as all solutions of a longer answer together."""
    at_once, by_turns = f"#### 4\n{YES}", f"#### 5\n{NO}\n#### 4\n{YES}"
    three = f"#### 5\n{NO}\n#### 6\n{NO}\n#### 4\n{YES}"
    wrong, fails = f"#### 9\n{YES}", f"#### 5\n{NO}\n#### 6\n{YES}"
    for texts in (
        (at_once, by_turns, wrong), (at_once, by_turns, by_turns, three), (at_once, three, wrong),
        (at_once, at_once, at_once, three, fails), (at_once, by_turns, fails, fails),
    ):  # fmt: skip
        found = weighed(*texts, rewards=rewards, algorithm=algorithm)
        firsts = [found.get((n, "solver 1"), 0.0) for n in range(len(texts))]
        assert firsts[0] >= max(firsts) - 1e-6
        assert rewards == "last" or firsts[0] > min(firsts)
        if (rewards, algorithm) == ("corr", "rloo"):
            solver = {key: a for key, a in found.items() if "solver" in key[1]}
            sums = [sum(a for key, a in solver.items() if key[0] == n) for n in range(len(texts))]
            assert sums[0] >= max(sums) - 1e-6
    # a bonus for each message, which would pay for more turns, is what this is not
    assert sum(c.reward for c in judged(three).credits) > sum(
        c.reward for c in judged(at_once).credits
    )


@pytest.mark.parametrize("rewards", ["corr", "last", "all"])
def test_agreeing_with_everything_does_not_pay(rewards: str) -> None:
    """Always yes is right as often as the solver, and its verdicts on wrong solutions lose all the
    same. So do those of always no on right ones."""
    texts = [f"#### 4\n{YES}"] * 3 + [f"#### 5\n{YES}", f"#### 5\n{NO}"]
    found = weighed(*texts, rewards=rewards)
    assert found[3, "verifier 1"] == pytest.approx(-1)
    assert found[4, "verifier 1"] == pytest.approx(0.25)
    found = weighed(*[f"#### 5\n{NO}"] * 3, f"#### 4\n{NO}", f"#### 4\n{YES}", rewards=rewards)
    assert found[3, "verifier 1"] == pytest.approx(-1)


def test_a_verifier_that_stopped_verifying_shows_in_the_steps_figures() -> None:
    """Nine verdicts of ten are right either way; only the two rates tell them apart."""
    blind = [group(*[f"#### 4\n{YES}"] * 9, f"#### 5\n{YES}")]
    found = figures(blind, {"agent"})
    assert (found["first"], found["true_yes"], found["true_no"]) == (0.9, 1.0, 0.0)
    fair = [group(*[f"#### 4\n{YES}"] * 8, f"#### 4\n{NO}", f"#### 5\n{NO}")]
    found = figures(fair, {"agent"})
    assert (found["first"], found["true_no"]) == (0.9, 1.0)
    assert found["true_yes"] == pytest.approx(8 / 9)
    assert "true_yes" not in figures([], {"agent"})


def test_raft_learns_the_right_messages_of_the_best_answer() -> None:
    texts = [
        f"#### 5\n{YES}",
        f"#### 4\n{NO}\n#### 4.0\n{YES}",  # ends right, one verdict wrong
        f"#### 5\n{NO}\n#### 4\n{YES}",  # ends right, three of four messages right too: the first
        f"#### 6\n{NO}",
    ]
    found = weighed(*texts, algorithm="raft")
    assert found == {(1, "solver 1"): 1, (1, "solver 2"): 1, (1, "verifier 2"): 1}
    found = weighed(*texts, f"#### 4\n{YES}", algorithm="raft")
    assert found == {(4, "solver 1"): 1, (4, "verifier 1"): 1}


@pytest.mark.parametrize(
    "texts",
    [
        (f"#### 5\n{NO}", f"#### 6\n{YES}"),  # no last solution is right
        ("#### 4", f"#### 4\n{NO}", "#### 5"),  # no verdict is right
        ("#### 4", "#### 5"),  # there is none
    ],
)
def test_raft_leaves_out_tasks_without_a_right_end_or_a_right_verdict(texts) -> None:
    assert weighed(*texts, algorithm="raft") == {}


def test_raft_over_whole_answers_is_as_it_was() -> None:
    rows = [
        Row("agent", "g", "", Scored(v, v == 1), 0, Branch(), i) for i, v in enumerate((1, 0, 1))
    ]
    for row in rows:
        row.reward = row.outcome.value  # type: ignore[union-attr]
    assert [r.episode for r in weigh(rows, ALGORITHMS["raft"], {}, True)] == [0, 2]


def test_the_gradient_is_that_of_each_messages_tokens(make, tokenizer) -> None:  # noqa: F811
    """Against one row an answer with its advantages token by token, summed by hand."""
    texts = (f"#### 5\n{NO}\n#### 4\n{YES}", f"#### 4\n{YES}", f"#### 5\n{YES}")
    rows = rows_of(group(*texts, tokenizer=tokenizer), "g", {"agent": tokenizer})
    used, _ = useful([rows], {"agent"})
    learned = weigh(used[0], ALGORITHMS["rloo"], {})
    loop = make()
    total = sum(sum(r.branch.mask) for r in learned)
    _, found = gradient(loop, learned, total)
    loop.trainer.optimizer.zero_grad()
    wanted = torch.zeros_like(found)
    for row in learned:  # one at a time: nothing is shared
        _, alone = gradient(loop, [row], total)
        wanted += alone
        loop.trainer.optimizer.zero_grad()
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    merged = [
        replace(r, advantage=sum(x.advantage for x in learned) / len(learned)) for r in learned
    ]
    _, other = gradient(loop, merged, total)
    assert (other - found).abs().max() > 1e-4
    loop.close()
