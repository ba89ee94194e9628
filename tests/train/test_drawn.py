"""Rows that a model makes itself: which pairs, how many of each kind, what of them is learned."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.gym.loop import Group, Job
from puna.gym.passes import QUESTION
from puna.gym.registry import load_environment
from puna.gym.trajectory import Episode, Trajectory
from puna.text.packing import IGNORE, Packed
from puna.text.template import render
from puna.train import drawn, sft
from puna.train.critiques import Critiques, Solution
from puna.train.data import Chat, read_messages
from puna.train.drawn import DrawConfig, Pair, as_meant, balanced, right_rows, solutions_of

YES, NO = f"{QUESTION} Yes", f"{QUESTION} No"
ENV = load_environment("math", {"equality": "number", "prompt": "none", "turns": 3})
TASK = ENV.task("train", 0)
ANSWER = TASK.hidden["problem"].answer
RIGHT, WRONG = f"#### {ANSWER}", f"#### {ANSWER}1"


def group(*texts: str, ended: str = "done", env: Any = ENV) -> Group:
    """What the environment makes of these answers to its first train task."""
    episodes = [Episode(TASK.id, (("agent", Message.assistant(t)),), {}, ended) for t in texts]
    verdicts = env.judge(episodes, TASK.hidden, None)
    found = [
        Trajectory({}, TASK.id, "train", 0, n, e, {}, dict(v))
        for n, (e, v) in enumerate(zip(episodes, verdicts, strict=True))
    ]
    return Group(Job("train", 0, len(texts)), TASK, found)


def solution(right: bool, text: str = "") -> Solution:
    return Solution(TASK, text or (RIGHT if right else WRONG), RIGHT, right)


def pair(right: bool, text: str = "", verification: str = "") -> Pair:
    return Pair(solution(right, text), verification or (YES if right else NO))


def test_one_wrong_and_one_other_right_solution_of_a_task_that_has_both() -> None:
    found = solutions_of(group(WRONG, f"so\n{RIGHT}", f"thus\n{RIGHT}", f"{WRONG}2"))
    assert found == [
        Solution(TASK, WRONG, f"so\n{RIGHT}", False),
        Solution(TASK, f"thus\n{RIGHT}", f"so\n{RIGHT}", True),
    ]
    assert solutions_of(group(RIGHT, RIGHT)) == []
    assert solutions_of(group(WRONG, WRONG)) == []
    assert [s.right for s in solutions_of(group(WRONG, RIGHT))] == [False]  # no other right one
    assert solutions_of(group(WRONG, RIGHT, ended="tokens")) == []


def test_of_an_answer_with_verdicts_the_first_solution_counts() -> None:
    found = solutions_of(group(f"{WRONG}\n{NO}\n{RIGHT}\n{YES}", f"{RIGHT}\n{YES}"))
    assert [(s.text, s.reference, s.right) for s in found] == [(WRONG, RIGHT, False)]


@pytest.mark.parametrize(
    "bad",
    [
        pair(False, text="no answer in it"),  # the verdict would stand inside the solution
        pair(False, text=f"{YES}\n{WRONG}"),
        pair(True, text=f"<reflect>a</reflect>\n{RIGHT}"),
        pair(False, text=RIGHT),  # not wrong at all
        pair(True, text=WRONG),
        pair(False, verification=YES),
        pair(True, verification=NO),
        pair(False, verification=f"{NO} or not"),
        pair(False, verification=f"<reflect>{NO}</reflect>\n{NO}"),
    ],
)
def test_a_pair_that_the_verifier_reads_otherwise_is_dropped(bad: Pair) -> None:
    fine = [
        pair(True),
        pair(False),
        pair(False, verification=f"<reflect>Off by one.</reflect>\n{NO}"),
    ]
    assert as_meant(ENV, fine) == fine
    assert as_meant(ENV, [bad, *fine[:1]]) == fine[:1]


@pytest.mark.parametrize(
    ("kinds", "wrong", "counts"),
    [
        ((40, 60), 0.5, (40, 40)), ((60, 40), 0.5, (40, 40)), ((40, 200), 0.2, (40, 160)),
        ((200, 40), 0.8, (160, 40)), ((40, 60), 0.2, (15, 60)), ((3, 1), 0.5, (1, 1)),
        ((0, 9), 0.5, (0, 0)), ((9, 0), 0.5, (0, 0)), ((1, 1), 0.2, (0, 0)),
    ],
)  # fmt: skip
def test_balance(kinds: tuple[int, int], wrong: float, counts: tuple[int, int]) -> None:
    pairs = [pair(False, f"{n}\n{WRONG}") for n in range(kinds[0])]
    pairs += [pair(True, f"{n}\n{RIGHT}") for n in range(kinds[1])]
    rows = balanced(pairs, wrong, seed=3)
    firsts = Counter(row["messages"][-1]["content"][0]["weight"] for row in rows)
    assert (firsts[0], firsts[1]) == counts
    assert rows == balanced(pairs, wrong, seed=3)
    if len(rows) > 20:
        assert rows != balanced(pairs, wrong, seed=4)
        texts = [json.dumps(row) for row in rows]
        assert len(set(texts)) == len(texts)  # none twice


def test_the_share_must_be_one() -> None:
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="wrong is"):
            DrawConfig(wrong=wrong)
    with pytest.raises(ValueError, match="temperature"):
        DrawConfig(temperature=0.0)
    with pytest.raises(ValueError, match="samples"):
        DrawConfig(samples=0)


def test_right_answers_once_each() -> None:
    plain = load_environment("math", {"equality": "number", "prompt": "none"})
    rows = right_rows(group(RIGHT, WRONG, RIGHT, f"so\n{RIGHT}", env=plain))
    assert [row["messages"][-1]["content"][0]["text"] for row in rows] == [RIGHT, f"so\n{RIGHT}"]


def test_what_is_wrong_is_read_and_not_learned(tmp_path, tokenizer) -> None:
    rows = balanced([pair(False), pair(True)], 0.5, seed=0)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = sorted(read_messages(path), key=lambda c: len(c.context))
    assert [c.context for c in chats] == [(), ((0, len(WRONG)),)]
    corrects = chats[1].messages[-1].text
    assert corrects == f"{WRONG}\n{NO}\n{RIGHT}\n{YES}"
    packed, left_out = sft._pack(chats[1:], tokenizer, 255)
    assert not left_out
    assert _learned(packed, tokenizer) == f"\n{NO}\n{RIGHT}\n{YES}<|eot|>"
    plain, _ = sft._pack([Chat(chats[1].messages)], tokenizer, 255)
    assert _learned(plain, tokenizer) == f"{corrects}<|eot|>"
    assert (plain.ids_NT == packed.ids_NT).all()


def _learned(packed: Packed, tokenizer) -> str:
    targets = packed.targets_NT[0]
    return tokenizer.decode(targets[targets != IGNORE].tolist(), skip_special=False)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([{"type": "text", "text": "a", "weight": 2}], "weight of a text is 2"),
        ([{"type": "text", "text": "a", "weight": None}], "weight of a text is None"),
    ],
)
def test_a_wrong_weight_is_one_line(tmp_path, content, what) -> None:
    row = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=f"line 1: the {what}"):
        read_messages(tmp_path / "a.jsonl")
    row["messages"].append(
        {"role": "user", "content": [{"type": "text", "text": "a", "weight": 0}]}
    )
    row["messages"][1]["content"] = "a"
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="not the assistant's"):
        read_messages(tmp_path / "a.jsonl")
    row["messages"][1]["content"] = [{"type": "text", "text": "a", "weight": 0}]
    row["messages"][2]["content"] = "b"
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="not in the last message"):
        read_messages(tmp_path / "a.jsonl")


def test_weights_of_text_that_tokens_do_not_spell_are_one_line(tokenizer) -> None:
    chat = Chat((Message.user("q"), Message.assistant("abc")), context=((0, 1),))
    rendered = render(tokenizer, [Message.user("q"), Message.assistant("xyz")])
    with pytest.raises(UserError, match="conversation 4: its tokens do not spell"):
        sft._learned(rendered, chat, tokenizer, 4)


@pytest.mark.parametrize(
    ("said", "right", "fine"),
    [
        (YES, True, True), (NO, False, True), (YES, False, False), (NO, True, False),
        (f"<reflect>Two twos are four. It says five.</reflect>\n{NO}", False, True),
        (f"<reflect>One. Two. Three.</reflect>\n{NO}", False, False),
        (f"<reflect>a</reflect>\n{NO}\n{YES}", False, False), (f"{NO} {YES}", False, False),
        (f"Well.\n{NO}", False, False), ("", False, False), (f"<reflect>{NO}", False, False),
        (f"  {NO}\n", False, True),
    ],
)  # fmt: skip
def test_a_critique_counts_in_form_and_with_the_verdict_due(said, right, fine) -> None:
    env = Critiques([solution(right)])
    task = env.task("train", 0)
    assert RIGHT in task.messages[0].text
    episodes = [Episode(task.id, (("agent", Message.assistant(said)),))]
    (verdict,) = env.judge(episodes, task.hidden, None)  # type: ignore[arg-type]
    assert verdict["agent"] == Scored(float(fine), fine)


def test_rows_are_drawn_once_from_the_model(ctx, new_model, tokenizer, monkeypatch) -> None:
    """A model of random weights is right by no chance, so a scripted player stands in for luck."""
    notes: list[str] = []
    monkeypatch.setattr(ctx.progress, "note", notes.append)
    with pytest.raises(UserError, match="gave no pairs of both kinds; train longer"):
        drawn.draw_rows(
            ctx, ctx.dir / "rows.jsonl", ENV, new_model(), tokenizer, 2,
            DrawConfig(samples=2, max_tokens=4), "pairs",
        )  # fmt: skip
    plain = load_environment("math", {"equality": "number", "prompt": "none"})
    with pytest.raises(UserError, match="math has no answers of several messages"):
        drawn.draw_rows(
            ctx, ctx.dir / "rows.jsonl", plain, new_model(), tokenizer, 2,
            DrawConfig(samples=2, max_tokens=4), "pairs",
        )  # fmt: skip
    with pytest.raises(UserError, match="no answer to 2 tasks of math was right"):
        drawn.draw_rows(
            ctx, ctx.dir / "rows.jsonl", plain, new_model(), tokenizer, 2,
            DrawConfig(samples=2, max_tokens=4), "right",
        )  # fmt: skip
    assert not (ctx.dir / "rows.jsonl").exists()

    def play(ctx, env, model, tokenizer, jobs, *settings):
        # the first are RL's, the last the oracle's
        assert [job.index for job in jobs] == [499_998, 499_999, 500_000]
        return [group(WRONG, RIGHT, f"so\n{RIGHT}") for _ in jobs]

    monkeypatch.setattr(drawn, "play_tasks", play)
    config = sft.Config(env="math", rows="pairs", demos=3)
    model = new_model()
    chats = sft._chats(ctx, config, ENV, model, tokenizer)
    assert len(chats) == 6
    assert notes == ["stage: 6 rows of 3 tasks"]
    again = sft._chats(ctx, config, ENV, None, tokenizer)  # type: ignore[arg-type]
    assert again == chats
