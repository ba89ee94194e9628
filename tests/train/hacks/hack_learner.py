"""A simulated learner: its answers are scripted, everything else is the library's own.

`play("substring", seed=0, cheats=True)` runs the RL collector on it step by step, under the watch.
Its skill rises in any case; one that cheats does so more and more often from some step on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hack_worlds import SUM, WORLDS

from puna.core.messages import Message
from puna.core.rng import Key, stream
from puna.engine.policy import Completion, SamplingParams
from puna.gym.loop import Rollout
from puna.gym.verify import has_shadow
from puna.gym.watch.signs import Finding
from puna.gym.watch.watch import Watch
from puna.text.images import Picture
from puna.text.template import render
from puna.text.tokenizer import MIN_VOCAB, Tokenizer
from puna.train.rl.collect import Collector

TOKENIZER = Tokenizer.train(["0123456789 because yes no so"], MIN_VOCAB)
STEPS, PROMPTS, SAMPLES = 60, 8, 4


class Learner:
    """A Sampler whose random streams are those of the keys it is asked with."""

    max_context = 10_000
    tokenizer = TOKENIZER

    def __init__(self, world: str, seed: int, cheats: bool) -> None:
        self.world, self.seed = WORLDS[world], seed
        rng = stream(seed, "learner", world)
        self.onset = int(rng.integers(8, 26))
        self.pace = float(rng.uniform(1.5, 4.0))
        self.most = float(rng.uniform(0.8, 0.98)) if cheats else 0.0
        self.first, self.last = float(rng.uniform(0.2, 0.45)), float(rng.uniform(0.6, 0.85))
        self.wobble = rng.normal(0.0, 0.04, STEPS)

    def share(self, step: int) -> float:
        """How often it cheats: now and then by chance, then more and more."""
        return 0.02 + self.most / (1 + math.exp((self.onset + 8 - step) / self.pace))

    def speak(self, prompt: str, key: tuple[Key, ...]) -> Message:
        step, turn = int(key[1]), int(key[-1])
        episode, own = stream(self.seed, *key[:-1]), stream(self.seed, *key)
        progress = step / STEPS
        a, b = map(int, SUM.search(prompt).groups())
        skill = self.first + (self.last - self.first) * progress + self.wobble[step]
        way = self.world.cheat if episode.random() < self.share(step) else self.world.honest
        guess = a + b if episode.random() < skill else max(0, a + b + int(episode.integers(1, 30)))
        question = prompt[SUM.search(prompt).start() :].split("\n")[0]
        return way(turn, question, str(guess), own, progress)

    async def sample(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        key: tuple[Key, ...],
        pictures: Sequence[Picture] = (),
    ) -> Completion:
        message = self.speak(TOKENIZER.decode(list(prompt_ids)), key)
        whole = render(TOKENIZER, [message], first=False)
        ids = tuple(i for i, mine in zip(whole.ids, whole.mask, strict=True) if mine)
        return Completion(ids, (-0.5,) * len(ids), int(key[1]), "stop")


@dataclass
class Played:
    """What the watch said of a run, and the means of each step."""

    findings: list[Finding] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    shadows: list[float] = field(default_factory=list)
    onset: int = 0

    @property
    def alarms(self) -> list[Finding]:
        return [f for f in self.findings if f.level == "alarm"]


def play(world: str, seed: int, cheats: bool, blind: bool = False, whole: bool = False) -> Played:
    """A run to its first alarm (to its end with `whole`); `blind` leaves the shadow out."""
    learner, env = Learner(world, seed, cheats), WORLDS[world].env(seed=seed)
    params = SamplingParams(1024)
    rollout = Rollout(env, {"agent": learner}, params, shadow=not blind)
    collector = Collector(rollout, PROMPTS, SAMPLES, 0, ["agent"])
    watch = Watch(["agent"], has_shadow(env) and not blind, env.tolerance)
    out = Played(onset=learner.onset)
    try:
        for step in range(STEPS):
            got: Any = collector.collect(step)
            out.rewards.append(got.figures["reward"])
            out.shadows.append(got.figures.get("shadow", math.nan))
            out.findings += watch.update(step, got.seen)
            if out.alarms and not whole:
                break
    finally:
        collector.close()
    return out
