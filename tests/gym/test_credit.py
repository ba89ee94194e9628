"""Which tokens belong to which message, whatever the tokens are."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.messages import Message
from puna.core.outcome import Credit, Scored
from puna.gym.credit import placed
from puna.gym.trajectory import Branch, Episode, Trajectory
from puna.text.aligned import begins
from puna.text.template import parse_assistant
from puna.text.tokenizer import Tokenizer

TEXTS = ["Is this correct? Yes", "Is this correct? No", "#### 12", "é ü 漢字 🦙"] * 20
TOKENIZER = Tokenizer.train(TEXTS, 330)
EOT = TOKENIZER.special("eot")


def sampled(ids: list[int], *ends: int, prompt: int = 3) -> Trajectory:
    """An answer of these ids behind a prompt; its messages end at these characters."""
    text = parse_assistant(TOKENIZER, ids).text
    starts = [0, *ends[:-1]]
    credits = tuple(Credit(f"m {i}", a, b, 1.0) for i, (a, b) in enumerate(zip(starts, ends)))  # noqa: B905
    n = len(ids)
    branch = Branch(
        [1] * prompt + ids, [False] * prompt + [True] * n, [0.0] * prompt + [-0.5] * n,
        [-1] * prompt + [4] * n,
    )  # fmt: skip
    episode = Episode("t", (("env", Message.user("?")), ("agent", Message.assistant(text))))
    outcome = Scored(1.0, True, credits=credits)
    return Trajectory({}, "t", "train", 0, 0, episode, {"agent": [branch]}, {"agent": outcome})


def spelt(trajectory: Trajectory) -> list[str]:
    found = placed(trajectory, "agent", TOKENIZER)
    assert found is not None
    ids = found.branch.ids
    return [
        TOKENIZER.decode([i for i, m in zip(ids, mask, strict=True) if m], skip_special=False)
        for mask in found.masks
    ]


def test_each_message_has_its_tokens_and_the_last_one_the_end() -> None:
    first, verdict, second = "#### 3\n", "Is this correct? No", "\n#### 12"
    ids = [i for text in (first, verdict, second) for i in TOKENIZER.encode(text)]
    ends = len(first), len(first + verdict), len(first + verdict + second)
    found = placed(sampled([*ids, EOT], *ends), "agent", TOKENIZER)
    assert found is not None
    assert spelt(sampled([*ids, EOT], *ends)) == [first, verdict, f"{second}<|eot|>"]
    assert [sum(column) for column in zip(*found.masks, strict=True)] == [0] * 3 + [1] * (
        len(ids) + 1
    )
    # the last word of the verdict is one token, said with probability e^-0.5
    assert len(TOKENIZER.encode(" No")) == 1
    assert found.last_words[1] == pytest.approx(math.exp(-0.5))


def test_a_token_across_a_boundary_belongs_where_it_begins() -> None:
    ids = TOKENIZER.encode(" Yes")
    assert len(ids) == 1
    assert spelt(sampled(ids, 2, 4)) == [" Yes", ""]


def test_what_follows_the_end_of_the_reading_belongs_to_nobody() -> None:
    said, tail = "Is this correct? Yes", "#### 12"
    ids = [*TOKENIZER.encode(said), *TOKENIZER.encode(tail), EOT]
    assert spelt(sampled(ids, len(said))) == [said]
    blank = [*TOKENIZER.encode(said), *TOKENIZER.encode("\n \n"), EOT]
    assert spelt(sampled(blank, len(said))) == [f"{said}\n \n<|eot|>"]


def test_an_answer_that_its_tokens_do_not_spell_is_its_first_message() -> None:
    trajectory = sampled(TOKENIZER.encode("#### 12"), 3, 7)
    other = Episode("t", (("agent", Message.assistant("something else")),))
    trajectory.episode = other
    assert spelt(trajectory) == ["#### 12", ""]
    found = placed(trajectory, "agent", TOKENIZER)
    assert found is not None
    assert math.isnan(found.last_words[1])


def test_only_the_last_answer_has_credits() -> None:
    trajectory = sampled(TOKENIZER.encode("#### 12"), 7)
    branch = trajectory.branches["agent"][0]
    earlier = TOKENIZER.encode("Is this")
    branch.ids[:0], branch.mask[:0] = earlier, [True] * len(earlier)
    branch.logprobs[:0], branch.versions[:0] = [-9.0] * len(earlier), [4] * len(earlier)
    assert spelt(trajectory) == ["#### 12"]
    trajectory.outcomes["agent"] = Scored(1.0, True)
    assert placed(trajectory, "agent", TOKENIZER) is None


@settings(max_examples=200)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30), st.randoms())
def test_any_tokens_whatever(ids: list[int], draw) -> None:
    """Garbage bytes, thoughts and calls that nobody closed: places rise, none is beyond the end."""
    text = parse_assistant(TOKENIZER, ids).text
    found = begins(TOKENIZER, ids, text)
    if found is not None:
        assert len(found) == len(ids)
        assert found == sorted(found)
        assert not found or found[-1] <= len(text)
    end = draw.randint(0, len(text))
    if not ids:
        return
    masks = placed(sampled(ids, end, len(text)), "agent", TOKENIZER)
    assert masks is not None
    together = [sum(column) for column in zip(*masks.masks, strict=True)]
    assert together == [0] * 3 + [1] * len(ids)


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_places_are_those_of_the_text(text: str) -> None:
    """What begins at a character spells the text from there on."""
    ids = TOKENIZER.encode(text)
    said = TOKENIZER.decode(ids)
    found = begins(TOKENIZER, [*ids, EOT], said)
    assert found is not None
    assert found[-1] == len(said)
    letters = "".join(TOKENIZER.decode([i]) for i in ids)
    if "\ufffd" not in letters:  # no character is in several tokens
        assert [said[a:b] for a, b in pairwise(found)] == [TOKENIZER.decode([i]) for i in ids]


def test_white_space_that_a_format_trims_moves_the_places() -> None:
    ids = TOKENIZER.encode("#### 12")
    plain = begins(TOKENIZER, ids, "#### 12")
    assert plain is not None
    assert begins(TOKENIZER, ids, "  #### 12\n") == [at + 2 for at in plain]
    assert begins(TOKENIZER, ids, "#### 13") is None
