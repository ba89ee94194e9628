"""`puna env`: list, show, try (a person plays the agent), new (a first environment)."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.core.config import to_dict
from puna.core.errors import UserError, nearest
from puna.core.files import write_text
from puna.core.messages import Message, Text, ToolCall, ToolResult
from puna.core.printable import printable
from puna.gym.environment import Environment
from puna.gym.loop import Context, play_scripts, refuse_less_isolation
from puna.gym.registry import known_environments, load_environment
from puna.gym.verify import judge_group
from puna.gym.workers import Workers

_TEMPLATE = '''"""{name}: count the letter asked for. Try it: puna env try ./{file}.py"""

import numpy as np

from puna.gym.environment import Problem, SingleTurn

WORDS = ["llama", "puna", "grass", "altiplano", "quinoa", "condor", "vicuna", "alpaca", "lake"]


class {cls}(SingleTurn):
    """Say how often a letter occurs in some words."""

    name = "{file}"
    version = "1.0"  # raise the first number when a prompt or a reward changes
    chance = 0.25  # what always saying "1" earns, measured: the best answer without looking

    def make(self, rng: np.random.Generator) -> Problem:
        """Draw one problem: everything random comes from `rng`."""
        words = " ".join(rng.choice(WORDS, size=3))
        letter = str(rng.choice(list("aglnu")))
        return Problem(f"{{letter}} in {{words}}?", str(words.count(letter)))

    def score(self, answer: str, problem: Problem) -> float:
        """1 for the right number and nothing else, 0 otherwise."""
        return float(answer.strip() == problem.answer)
'''

_TEST = '''"""The reward of {name} passes the audit: pytest test_{file}.py"""

from pathlib import Path

from puna.gym.audit import audit


def test_reward_can_be_trusted():
    found = audit(str(Path(__file__).parent / "{file}.py"))
    assert found.passed, found.findings
'''
_RECIPE = """# From what the quickstart pretrained: imitate the oracle, then learn from the reward.
name = "{file}"
machine = {{ threads = 1 }}

[[stage]]
id = "sft"
kind = "sft"
init = "runs/quickstart/pretrain"
env = "./{file}.py"
demos = 1000
steps = 300

[[stage]]
id = "rl"
kind = "rl"
from = ["sft"]
env = "./{file}.py"
steps = 50
max_tokens = 8

[[stage]]
id = "eval"
kind = "eval"
from = ["sft", "rl"]
envs = ["./{file}.py"]
n = 200
max_tokens = 8
"""


def environments(args: list[str]) -> int:
    """`puna env ACTION [NAME]`; gives the exit status. Raises UserError for anything else."""
    actions = ("list", "show", "try", "new")
    if not args or args[0] in ("-h", "--help"):
        print("usage: puna env list | show NAME | try NAME [--index N] | new NAME")
        return 0
    if args[0] not in actions:
        raise UserError(f"puna env: no action '{args[0]}'", nearest(args[0], actions))
    if args[0] == "list":
        list_environments()
        return 0
    if len(args) < 2:
        raise UserError(f"puna env {args[0]}: which one?", f"puna env {args[0]} NAME")
    if args[0] == "show":
        show_environment(args[1])
    elif args[0] == "new":
        new_environment(args[1], Path.cwd())
    else:
        index = args[3] if len(args) == 4 and args[2] == "--index" else "0"
        if not index.isdecimal():
            raise UserError(f"--index {index}: not a task number", "give 0 or more")
        try_environment(args[1], int(index))
    return 0


def list_environments() -> None:
    """Print every environment that can be named."""
    for name, where in sorted(known_environments().items()):
        try:
            env = load_environment(name)
            print(printable(f"{name} {env.version}  {_about(env)}  ({where})"))
        except UserError as error:
            print(f"{name}  cannot be loaded: {error}")


def _about(env: Environment) -> str:
    return (type(env).__doc__ or "no description").strip().splitlines()[0]


def show_environment(name: str) -> None:
    """Print settings, sizes, limits and three tasks; the hidden part stays hidden."""
    env = load_environment(name)
    print(printable(f"{env.name} {env.version}: {_about(env)}"))
    print(f"roles: {', '.join(env.roles)}   isolation: {env.tier}   chance: {env.chance}")
    print(f"tasks: {env.count('train'):,} train, {env.count('test'):,} test")
    settings = to_dict(env.config) or {}
    known = ", ".join(f"{k}={v!r}" for k, v in settings.items())
    print(printable(f"settings: {known or 'none'}"))
    for index in range(min(3, env.count("train"))):
        task = env.task("train", index)
        print(f"train/{index}:")
        for message in task.messages:
            print(printable(f"  {message.role}: {message.text}"))


def try_environment(name: str, index: int) -> None:
    """A person plays the agent on one test task and sees the verdict."""
    env = load_environment(name)
    refuse_less_isolation(env)
    if not 0 <= index < env.count("test"):
        what = f"{name} has {env.count('test')} test tasks and no number {index}"
        raise UserError(what, "choose --index from 0 on")
    task = env.task("test", index)
    shown = 0
    if task.tools:
        print(_TOOL_HELP)

    def person(messages: Sequence[Message]) -> Message:
        nonlocal shown
        for message in messages[shown:]:
            print(printable(f"{message.role}: {_heard(message)}"))
        shown = len(messages) + 1
        while True:
            try:
                text = input("you: ")
            except EOFError:
                print("(no answer)")
                text = ""
            if task.tools and text.startswith("/"):
                if text.strip() == "/help":
                    print(printable(_tool_list(task.tools)))
                    continue
                try:
                    return Message("assistant", (typed_call(text, task.tools, shown),))
                except ValueError as error:
                    print(printable(f"({error}; /help lists the tools)"))
                    continue
            return Message.assistant(text)

    async def play() -> None:
        workers = Workers(1)
        episode = await play_scripts(env, task, dict.fromkeys(env.roles, person), Context())
        verdicts = await judge_group(env, task, [episode], Context(), workers)
        workers.close()
        for role, outcome in verdicts[0].items():
            print(printable(f"{role}: {outcome}"))

    asyncio.run(play())


_TOOL_HELP = "What you type is said; /TOOL name=value calls a tool; /help lists the tools."


def _heard(message: Message) -> str:
    """All that a person must see of a message: its text and what tools answered."""
    results = [p for p in message.parts if isinstance(p, ToolResult)]
    answers = [x.text for r in results for x in r.parts if isinstance(x, Text)]
    return "\n".join([*answers, message.text] if message.text else answers)


def _tool_list(tools: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for tool in tools:
        known = tool["function"]["parameters"]["properties"]
        values = {k: "|".join(map(str, v.get("enum", ["..."]))) for k, v in known.items()}
        usage = " ".join(f"{k}={v}" for k, v in values.items())
        about = " ".join(tool["function"]["description"].split())
        lines.append(f"  /{tool['function']['name']} {usage}   {about}")
    return "\n".join(lines)


def typed_call(line: str, tools: Sequence[Mapping[str, Any]], number: int) -> ToolCall:
    """The tool call that `/cancel id=482` means; a value with spaces stands in quotes.

    Values are read as JSON where the tool's schema does not want text. Raises ValueError for a
    line of another form.
    """
    name, *words = shlex.split(line[1:]) or [""]
    known = {t["function"]["name"]: t["function"]["parameters"]["properties"] for t in tools}
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"'{word}' is not name=value")
        arguments[key] = value
        if known.get(name, {}).get(key, {}).get("type") != "string":
            try:
                arguments[key] = json.loads(value)
            except ValueError:
                pass  # the tool will say what it wants instead
    return ToolCall(f"call_{number}", name, json.dumps(arguments))


def new_environment(name: str, folder: Path) -> None:
    """Write NAME.py, test_NAME.py and NAME.toml, a recipe.

    Raises UserError for a bad name or a file in the way.
    """
    if not name.isidentifier() or not name.islower():
        raise UserError(f"'{name}' cannot name an environment", "use lower-case letters and _")
    cls = "".join(part.capitalize() for part in name.split("_"))
    files = {
        folder / f"{name}.py": _TEMPLATE.format(name=name, file=name, cls=cls),
        folder / f"test_{name}.py": _TEST.format(name=name, file=name),
        folder / f"{name}.toml": _RECIPE.format(file=name),
    }
    for path in files:
        if path.exists():
            raise UserError(f"{path} exists", "choose another name")
    for path, text in files.items():
        write_text(path, text)
    print(f"wrote {name}.py, test_{name}.py and {name}.toml; next:")
    for line in (f"env try ./{name}.py", f"audit ./{name}.py", f"run ./{name}.toml"):
        print(f"  puna {line}")
