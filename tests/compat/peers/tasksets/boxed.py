"""What cannot be judged here: every reward needs the runtime."""

import verifiers.v1 as vf

__all__ = ["BoxedTaskset"]


class BoxedTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def ran(self, runtime) -> float:
        return 1.0


class BoxedTaskset(vf.Taskset[BoxedTask, vf.TasksetConfig]):
    def load(self):
        yield BoxedTask(vf.TaskData(prompt="run it"), self.config.task)
