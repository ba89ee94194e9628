import verifiers.v1 as vf

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class WordSumsData(vf.TaskData):
    answer: str


class WordSumsTask(vf.Task[WordSumsData]):
    @vf.reward(weight=0.9)
    async def correct(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.1)
    async def terse(self, trace: vf.Trace) -> float:
        return float(int(trace.last_reply) >= 0)  # raises where it is no number

    @vf.reward(weight=1.0)
    async def tests_pass(self, trace: vf.Trace, runtime) -> float:
        raise AssertionError("there is no runtime")

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)


class WordSumsConfig(vf.TasksetConfig):
    most: int = 10


class WordSumsTaskset(vf.Taskset[WordSumsTask, WordSumsConfig]):
    def load(self) -> list[WordSumsTask]:
        return [
            WordSumsTask(
                WordSumsData(
                    prompt=f"{WORDS[a]} plus {WORDS[b]}",
                    system_prompt="Say the sum in digits, and nothing else.",
                    answer=str(a + b),
                ),
                self.config.task,
            )
            for a in range(self.config.most)
            for b in range(self.config.most)
        ]
