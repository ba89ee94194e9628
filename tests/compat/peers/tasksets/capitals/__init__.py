"""A taskset with splits of its own, several messages a prompt, rewards given as a mapping."""

from typing import Literal

import verifiers.v1 as vf

__all__ = ["CapitalsTaskset"]
ROWS = {
    "train": [("Peru", "Lima"), ("Bolivia", "Sucre"), ("Chile", "Santiago")],
    "validation": [("Ecuador", "Quito"), ("Peru", "Lima")],
}


class CapitalsData(vf.TaskData):
    gold: str


class CapitalsTask(vf.Task[CapitalsData]):
    @vf.reward
    async def graded(self, trace: vf.Trace) -> dict[str, float]:
        said = trace.last_reply
        return {
            "right": float(said == self.data.gold),
            "close": 0.5 * (said[:1] == self.data.gold[:1]),
        }


class CapitalsConfig(vf.TasksetConfig):
    split: Literal["train", "validation"] = "train"


class CapitalsTaskset(vf.Taskset[CapitalsTask, CapitalsConfig]):
    def load(self):
        for country, gold in ROWS[self.config.split]:
            prompt = [
                vf.UserMessage(content="France?"),
                vf.AssistantMessage(content="Paris"),
                vf.UserMessage(content=f"{country}?"),
            ]
            yield CapitalsTask(CapitalsData(prompt=prompt, gold=gold), self.config.task)
