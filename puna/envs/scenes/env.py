"""scenes: a drawn picture and a question about what is where. `puna env try scenes`.

Some combinations of shape, colour and place stand in test pictures only, so that whoever answers
there has learned to see colours, shapes and places apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from puna.core.messages import Message, Text
from puna.envs.scenes.drawing import COLOURS, PLACES, SHAPES, Thing, draw, png
from puna.gym.environment import Problem, SingleTurn, say
from puna.gym.task import Script, Task
from puna.text.images import inline

KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)

# A fifth of the combinations. Each place, colour and shape has its share of them, so that their
# names alone give nothing away; each stands in train with other partners.
TEST_ONLY = frozenset(
    str(Thing(colour, shape, place))
    for c, colour in enumerate(COLOURS)
    for s, shape in enumerate(SHAPES)
    for place in range(len(PLACES))
    if (c + s + place) % 5 == 0
)


@dataclass(frozen=True)
class ScenesConfig:
    """`things` shapes at most; with `blind` every picture is an empty one (for a control)."""

    things: int = 3
    blind: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number of things that do not fit."""
        if not 1 <= self.things <= 6:
            raise ValueError(f"things is {self.things}, must be 1 to 6")


@dataclass(frozen=True)
class Scene:
    """What is drawn, the number of the thing that is asked for, and how."""

    things: tuple[Thing, ...]
    asked: int
    where: bool
    jitter: int

    @property
    def question(self) -> str:
        """What the policy reads under the picture."""
        thing = self.things[self.asked]
        return f"Where is the {thing.name}?" if self.where else f"What is {PLACES[thing.place]}?"

    @property
    def answer(self) -> str:
        """What it should say."""
        thing = self.things[self.asked]
        return PLACES[thing.place] if self.where else thing.name


class Scenes(SingleTurn):
    """Say what stands at a place of the picture, or where a thing stands."""

    name: ClassVar[str] = "scenes"
    version: ClassVar[str] = "1.0"
    Config: ClassVar[type] = ScenesConfig
    sizes: ClassVar[Mapping[str, int]] = {"train": 1_000_000, "test": 1_000}
    # The best that the question alone allows, on 1,000 test tasks: one place for every "where",
    # one thing for every "what" (see tests/envs/test_scenes.py).
    chance: ClassVar[float] = 0.094
    idle_answers: ClassVar[tuple[str, ...]] = (*SingleTurn.idle_answers, "nothing", "red", "left")

    def make(self, rng: np.random.Generator) -> Problem:
        """Draw the things, all different and at different places, and the question."""
        count = 1 + int(rng.random() * self.config.things)
        kinds = rng.permutation(len(KINDS))[:count]
        places = rng.permutation(len(PLACES))[:count]
        things = tuple(
            Thing(*KINDS[int(kind)], int(place))
            for kind, place in zip(kinds.tolist(), places.tolist(), strict=True)
        )
        asked, where = int(rng.random() * count), bool(rng.random() < 0.5)
        scene = Scene(things, asked, where, int(rng.random() * 2**31))
        # The first thing named is the one asked for: `belongs` reads no more than this.
        told = [things[asked], *(t for t in things if t is not things[asked])]
        prompt = f"{'; '.join(map(str, told))} | {scene.question}"
        tags = {"question": "where" if where else "what", "things": str(count)}
        return Problem(prompt, scene.answer, tags, {"scene": scene})

    def belongs(self, prompt: str) -> str:
        """Test where it asks for a combination of test; train where none of test is in sight."""
        kept = [thing in TEST_ONLY for thing in prompt.partition(" | ")[0].split("; ")]
        return "test" if kept[0] else "neither" if any(kept) else "train"

    def _as_task(self, split: str, index: int, problem: Problem) -> Task:
        scene: Scene = problem.hidden["scene"]
        things = () if self.config.blind else scene.things
        picture = inline(png(draw(things, scene.jitter)), "image/png")
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=(Message("user", (picture, Text(scene.question))),),
            key=problem.prompt,
            hidden={"problem": problem},
            tags=problem.tags,
        )

    def score(self, answer: str, problem: Problem) -> float:
        """1 for exactly the words of the answer (white space around them is forgiven), else 0."""
        return float(answer.strip() == problem.answer)

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """The standard cheats, and those of words: all of them, half of them, another one."""
        problem: Problem = task.hidden["problem"]
        scene: Scene = problem.hidden["scene"]
        words = PLACES if scene.where else [" ".join(kind) for kind in KINDS]
        wrong = next(w for w in words if w != problem.answer)
        texts = {
            "every answer": ", ".join(words),
            "hedged": f"{wrong} or {problem.answer}",
            "half of it": problem.answer.split()[0],
            "turned round": " ".join(reversed(problem.answer.split())),
            "another one": wrong,
            "in a sentence": f"It is {problem.answer}.",
        }
        return {**super().cheats(task), **{n: {"agent": say(t)} for n, t in texts.items()}}
