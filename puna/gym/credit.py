"""Which tokens of an answer each of its messages is made of, so that each is paid for its own.

`placed(trajectory, "agent", tokenizer)` -> the answer's branch and one mask for each credit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from puna.core.outcome import Scored
from puna.gym.trajectory import Branch, Trajectory
from puna.text.aligned import begins
from puna.text.tokenizer import Tokenizer


class Placed(NamedTuple):
    """A branch, and for each credit in order whether its message has the token [T].

    `last_words` are the probabilities with which the messages' last words were said, NaN where no
    token begins in one.
    """

    branch: Branch
    masks: list[list[bool]]
    last_words: list[float]


def placed(trajectory: Trajectory, role: str, tokenizer: Tokenizer) -> Placed | None:
    """Where the messages of the last answer of `role` stand; None where it has no credits.

    A token belongs to the message in which it begins; what closes the answer, to its last. Behind
    where the verifier stopped reading, tokens belong to none. Where the tokens do not spell the
    answer's text, all of them are of the message that it begins with.
    """
    outcome, branches = trajectory.outcomes.get(role), trajectory.branches.get(role)
    if not isinstance(outcome, Scored) or not outcome.credits or not branches:
        return None
    branch, said = branches[-1], trajectory.episode.said(role)
    if True not in branch.mask:
        return None
    end = len(branch.mask) - branch.mask[::-1].index(True)
    start = end
    while start and branch.mask[start - 1]:
        start -= 1
    found = begins(tokenizer, branch.ids[start:end], said) or [0] * (end - start)
    at = [-1] * start + found + [-1] * (len(branch.mask) - end)
    masks, chances = [], []
    for credit in outcome.credits:
        closes = credit is outcome.credits[-1] and not said[credit.end :].strip()
        high = len(said) + 1 if closes else credit.end
        masks.append([credit.start <= place < high for place in at])
        word = max(credit.start, said.rfind(" ", credit.start, credit.end))
        spoken = zip(at, branch.logprobs, strict=True)
        told = [logprob for place, logprob in spoken if word <= place < credit.end]
        chances.append(math.exp(sum(told)) if told else math.nan)
    return Placed(branch, masks, chances)
