"""needles: a fact in a text of any length, or a chain of them to follow. `puna env try needles`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, ClassVar

import numpy as np

from puna.core.messages import Message
from puna.core.outcome import Scored
from puna.core.rng import stream
from puna.gym.environment import (
    JudgeContext,
    Limits,
    OneTurn,
    Problem,
    Session,
    SingleTurn,
    Turn,
    Verdicts,
    say,
)
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

FILLER = tuple(
    f"The {who} {does} the {what}."
    for who, does, what in product(
        ("farmer", "baker", "driver", "nurse", "clerk", "pilot", "miller", "painter"),
        ("sees", "likes", "moves", "wants", "keeps", "finds"),
        ("old house", "red cart", "long road", "small boat", "stone wall", "warm coat", "big tree"),
    )
)
WORDS_OF_FILLER = 6
FACT = re.compile(r"(\w+) leads to (\w+)\.")
ASKED = "Where does {} lead in the end? Repeat the facts that lead there, in order."


@dataclass(frozen=True)
class NeedlesConfig:
    """What the text holds: `words` of filler, and `chains` of facts with `hops` facts each.

    `questions` chains are asked for, one after another. `depth` is where the first fact of the
    first one stands, 0 the beginning of the text and 1 its end; below 0 it stands anywhere. The
    other facts stand anywhere.
    """

    words: int = 300
    chains: int = 8
    hops: int = 1
    questions: int = 1
    depth: float = -1.0

    def __post_init__(self) -> None:
        """Raises ValueError for a text that cannot be."""
        for name, least, most in (("words", 0, 10_000_000), ("chains", 2, 100), ("hops", 1, 10)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, must be {least} to {most}")
        if not 1 <= self.questions <= self.chains:
            raise ValueError(f"questions is {self.questions}, must be 1 to chains ({self.chains})")
        if not self.depth <= 1:
            raise ValueError(f"depth is {self.depth}, must be at most 1")


class Needles(SingleTurn):
    """Follow a chain of facts, scattered in a text, to its end.

    With one hop it is retrieval, with more each fact names the next one to look for, in any order
    of the text (as RULER's needles and its variable tracking, arXiv 2404.06654). The answer is the
    facts, word for word. No word of a fact occurs in both splits.
    """

    name: ClassVar[str] = "needles"
    version: ClassVar[str] = "2.0"
    limits: ClassVar[Limits] = Limits(turns=128)
    Config: ClassVar[type] = NeedlesConfig

    def __init__(self, config: NeedlesConfig | None = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Who repeats any chain is right that often.
        self.chance = 1 / self.config.chains  # type: ignore[misc]

    def count(self, split: str) -> int:
        """A million train tasks, 2,000 test tasks."""
        return self.sizes[split]

    def task(self, split: str, index: int) -> Task:
        """Text `index`; its facts are about words of this split alone."""
        self._check(split, index)
        rng = stream(self.seed, self.name, split, index)
        return self._as_task(split, index, self._problem(rng, names(split)))

    def _problem(self, rng: np.random.Generator, known: tuple[str, ...]) -> Problem:
        config = self.config
        drawn = rng.choice(len(known), config.chains * (config.hops + 1), replace=False)
        chains = [[known[i] for i in row] for row in drawn.reshape(config.chains, config.hops + 1)]
        paths = [[f"{a} leads to {b}." for a, b in pairwise(chain)] for chain in chains]
        facts = [fact for path in paths for fact in path]
        places = rng.random(len(facts))
        if config.depth >= 0:
            places[0] = config.depth
        lines = [FILLER[i] for i in rng.integers(len(FILLER), size=config.words // WORDS_OF_FILLER)]
        cuts = np.floor(places * (len(lines) + 1)).astype(int).clip(0, len(lines))
        # From the last place to the first, so that the places before stay where they are.
        for i in np.argsort(places)[::-1]:
            lines.insert(int(cuts[i]), facts[i])
        text = " ".join([*lines, ASKED.format(chains[0][0])])
        tags = {"depth": f"{int(places[0] * 4) * 25}%"}
        told = [(c[0], " ".join(path)) for c, path in zip(chains, paths, strict=True)]
        return Problem(text, told[0][1], tags, {"asked": told[: config.questions]})

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """The text with the first question; the others follow the answers."""
        return Asking(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts:
        """1 for a right answer to every question; one that was cut off earns nothing."""
        paths = [path for _, path in asked(hidden["problem"])]
        out = []
        for episode in episodes:
            said = [m.text for role, m in episode.transcript if role == "agent"]
            right = len(said) == len(paths) and all(map(same, said, paths))
            right &= episode.ended == "done"
            out.append({"agent": Scored(float(right), right)})
        return out

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Answers every question."""
        right = [path for _, path in asked(task.hidden["problem"])]

        def script(messages: Sequence[Message]) -> Message:
            return Message.assistant(right[sum(m.role == "assistant" for m in messages)])

        return {"agent": script}

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """The standard ones, all facts, the first and the last word alone, and words that swap."""
        problem: Problem = task.hidden["problem"]
        word, path = asked(problem)[0]
        end = path.split()[-1]
        facts = [f"{fact[0]} leads to {fact[1]}" for fact in FACT.findall(problem.prompt)]
        texts = {
            "the word asked for": word,
            "the end": end,
            "a sentence": f"{word} leads in the end to {end}",
            "every fact": " ".join(facts),
            "turned round": f"{end.removesuffix('.')} leads to {word}.",
        }
        return {**super().cheats(task), **{n: {"agent": say(t)} for n, t in texts.items()}}


class Asking(OneTurn):
    """A session that asks the next question after each answer, whatever it was."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.left = [ASKED.format(word) for word, _ in asked(task.hidden["problem"])[1:]]

    def take(self, turn: Turn, message: Message) -> None:
        """The answer is not commented on."""
        shown = (*turn.messages, message, *map(Message.user, self.left[:1]))
        self.turn = replace(turn, messages=shown) if self.left else None
        self.left = self.left[1:]


def asked(problem: Problem) -> Sequence[tuple[str, str]]:
    """The words that are asked for, each with the facts from there to the end."""
    return problem.hidden["asked"]  # type: ignore[no-any-return]


def same(answer: str, path: str) -> bool:
    """Whether `answer` is `path`; case, white space and the last full stop are forgiven."""
    return " ".join(answer.lower().split()).removesuffix(".") == path.removesuffix(".")


@lru_cache(maxsize=2)
def names(split: str) -> tuple[str, ...]:
    """All words that facts of a split are about: a fifth of them are for test."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = [a + b for a, b in product(syllables, syllables) if a != b]
    mine = stream(0, "needles", "names").random(len(words)) < 0.2
    return tuple(w for w, test in zip(words, mine, strict=True) if test == (split == "test"))
