"""Other libraries' formats: one file each, turning a foreign thing into an Environment and back.

`load_environment("reasoning_gym:coin_flip")`; docs/other-gyms.md has them all.
"""

from collections.abc import Mapping, Sequence

from puna.core.messages import Message
from puna.gym.environment import say
from puna.gym.task import Script, Task


def plain_cheats(task: Task, role: str = "agent") -> dict[str, Mapping[str, Script]]:
    """Scripts that answer nothing, for environments whose answers Puna knows nothing of."""

    def echo(messages: Sequence[Message]) -> Message:
        return Message.assistant(messages[-1].text)

    texts = {"idle": "I don't know.", "over-long": "9" * 100_000, "wrong type": "[null]"}
    texts["many answers"] = " ".join(map(str, range(-200, 1000)))
    found: dict[str, Mapping[str, Script]] = {n: {role: say(t)} for n, t in texts.items()}
    return found | {"echo": {role: echo}}
