"""`puna chat`: talk to a stage of a run; `/compare sft rl` asks two stages the same thing."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import UserError
from puna.core.messages import Image, Message, Text
from puna.core.printable import printable
from puna.core.runs import find_model, home_of
from puna.core.threads import set_threads
from puna.engine.local import Engine
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler, Rendezvous
from puna.gym.registry import load_environment
from puna.gym.seat import ContextFullError, SamplerSeat
from puna.text.images import attach

HELP = """/stage NAME       talk to another stage
/compare A B      answer the next prompts with both stages
/stages           the stages that can be talked to
/image FILE       show an image with the next prompt
/reset            forget the conversation
/quit             leave (so does Ctrl-D)"""


class Chat:
    """A conversation with one or two stages of a run."""

    def __init__(self, target: Path, stage: str, params: SamplingParams) -> None:
        self.target, self.params = target, params
        self.models: dict[str, Any] = {}
        self.names = [self._load(stage)]
        self.reset()

    def _load(self, stage: str) -> str:
        from puna.models import load as load_weights
        from puna.text.tokenizer import Tokenizer

        directory, label = find_model(self.target, stage)
        if label not in self.models:
            machine = home_of(directory).machine  # answers as the run's own scores had them
            set_threads(machine.threads)
            tokenizer = Tokenizer.load(directory).require_chat(directory)
            model, _ = load_weights(directory)
            model.compute_dtype = getattr(torch, machine.dtype)
            model.to(machine.device)
            self.models[label] = Engine(model, tokenizer, 0)
        return label

    def reset(self) -> None:
        """Begin a new conversation."""
        self.images: list[Image] = []
        self.histories: dict[str, tuple[Message, ...]] = dict.fromkeys(self.names, ())
        self.seats = {
            n: SamplerSeat(
                LocalSampler(self.models[n], Rendezvous()), self.params, ("chat", "chat")
            )
            for n in self.names
        }

    def use(self, *stages: str) -> None:
        """Talk to these stages from now on. Raises UserError for one that is not there."""
        self.names = [self._load(s) for s in stages]
        self.reset()

    def show(self, path: Path) -> None:
        """Put an image before the next prompt. Raises UserError where it cannot be read or seen."""
        for name in self.names:
            if self.models[name].tokenizer.tiling is None:
                raise UserError(f"{name} reads no images", "take a model with a vision encoder")
        self.images.append(attach(path))

    def say(self, text: str) -> list[tuple[str, str]]:
        """(stage, answer) of every stage in use."""
        out = []
        asked = Message("user", (*self.images, Text(text)))
        self.images = []
        for name in self.names:
            messages = (*self.histories[name], asked)
            try:
                reply = asyncio.run(self.seats[name].reply(messages))
            except ContextFullError:
                self.reset()
                reply = Message.assistant("(the conversation was too long; it begins anew)")
                messages = ()
            self.histories[name] = (*messages, reply) if messages else ()
            shown = reply.text + "".join(f"[{c.name} {c.arguments}]" for c in reply.tool_calls)
            out.append((name, shown))
        return out


def abilities(target: Path) -> tuple[str, list[str]]:
    """What a run's model was made to do, in one sentence, and three prompts to try."""
    path = target / "run.json"
    prompts: list[str] = []
    if not path.exists():
        return "a checkpoint; nothing is recorded about what it can do", prompts
    run = json.loads(path.read_text())
    parts = []
    for stage in run["stages"]:
        record = target / stage["id"] / "stage.json"
        if stage["kind"] == "eval" and record.exists():
            scores = json.loads(record.read_text())["result"]["scores"]
            several = len({s.get("role") for s in scores}) > 1
            for score in scores:
                value = score["score"]["value"]
                if value:
                    role = f" as {score.get('role')}" if several else ""
                    parts.append(
                        f"{score['stage']}{role} solves {value['mean']:.0%} of "
                        f"{score['env']['name']} [{value['low']:.0%}, {value['high']:.0%}]"
                    )
        for given in stage.get("envs", []):
            settings = {"id": given} if isinstance(given, str) else dict(given)
            try:
                env = load_environment(str(settings.pop("id", "")), settings)
                few = range(min(3, env.count("test")))
                prompts += [env.task("test", i).messages[-1].text for i in few]
            except UserError:
                continue
    what = "; ".join(parts[-3:]) or "no stage was evaluated"
    return f"{run['name']}: {what}", prompts[:3]


def talk(
    target: Path, stage: str, temperature: float, max_tokens: int, images: Sequence[Path] = ()
) -> int:
    """The conversation at the terminal; reads standard input to its end."""
    if max_tokens < 1 or temperature < 0:
        raise UserError("max-tokens must be at least 1 and temperature 0 or more")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text end no conversation
    chat = Chat(target, stage, SamplingParams(max_tokens, temperature))
    for path in images:
        chat.show(path)
    what, prompts = abilities(target)
    print(printable(what))
    if prompts:
        print(printable("try: " + "   ".join(prompts)))
    print(f"talking to {chat.names[0]}; /help lists commands")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return 0
        if not text:
            continue
        if text.startswith("/"):
            if _command(chat, text[1:].split()):
                return 0
            continue
        for name, answer in chat.say(text):
            print(printable(f"{name}: {answer}" if len(chat.names) > 1 else answer))


def _command(chat: Chat, words: list[str]) -> bool:
    """Do what a /command says; True to leave."""
    try:
        match words:
            case ["quit" | "exit"]:
                return True
            case ["reset"]:
                chat.reset()
            case ["image", *name] if name:
                chat.show(Path(" ".join(name)))
                print("shown with the next prompt")
            case ["stage", name]:
                chat.use(name)
                print(f"talking to {name}")
            case ["compare", a, b]:
                chat.use(a, b)
                print(f"asking {a} and {b}")
            case ["stages"]:
                found = sorted(
                    p.parent.parent.name for p in chat.target.glob("*/model/config.json")
                )
                print(" ".join(found) or "only this one")
            case _:
                print(HELP)
    except UserError as error:
        print(error)
    return False
