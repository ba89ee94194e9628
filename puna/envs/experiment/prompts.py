"""What an agent is told of a research task: the command, what is missing, the repository's text."""

from __future__ import annotations

from puna.core.messages import Message
from puna.envs.experiment.masking import decoded
from puna.envs.experiment.research import Research

_TASK = """\
This repository measures something with the command

    {command}

{where}. The bodies of these functions are missing, and raise NotImplementedError:

{functions}

Write them so that the numbers come out again as they did with the original: each within 5 %.
"""
_JUDGED = """\
It is judged by running the command again{second} with your bodies of these functions. \
Nothing else that you change counts, and no number that you report: helpers and imports belong \
into the bodies.
"""
_TOOLS = """
You work with tools, in at most {steps} messages and {seconds:.0f} seconds of processor time. \
`submit` ends.
"""
_ONE = """
Write one of them: {name} in {path}, which reads

```python
{text}```

Answer with the whole function in one block of code.
"""


def with_tools(research: Research, steps: int, seconds: float) -> tuple[Message, ...]:
    """The one prompt of an episode with tools."""
    about = f"\n{research.about}" if research.about else ""
    return (Message.user(_task(research) + _TOOLS.format(steps=steps, seconds=seconds) + about),)


def by_function(research: Research) -> tuple[Message, ...]:
    """A prompt for each missing function: the task, the file it stands in, the text."""
    about = f"\n{research.about}" if research.about else ""
    out = []
    for name in research.masked:
        path, _, inner = name.partition(":")
        text = decoded(research.given[path])[0].replace("\r\n", "\n").rstrip("\n") + "\n"
        one = _ONE.format(name=inner, path=path, text=text)
        out.append(Message.user(_task(research) + one + about))
    return tuple(out)


def _task(research: Research) -> str:
    source = research.source
    where = f"and finds them in {source.results}" if source.results else "whose last line is JSON"
    listed = [f"- {name.replace(':', ': ', 1)}" for name in research.masked]
    second = ", and once more with other settings," if source.second else ""
    asked = _TASK.format(command=source.command, where=where, functions="\n".join(listed))
    return asked + _JUDGED.format(second=second)
