"""`puna chat`: talk to a stage of a run; `/compare sft rl` asks two stages the same thing.

`talk(Path("runs/quickstart"))` reads standard input to its end, prints answers as they come.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from puna.agents.abilities import abilities
from puna.agents.conversation import Conversation
from puna.agents.keyboard import Keyboard, Typed
from puna.agents.screen import Screen
from puna.core.errors import UserError, nearest
from puna.engine.policy import SamplingParams
from puna.gateway.asked import Said
from puna.gym.seat import ContextFullError


def talk(
    target: Path,
    stage: str = "",
    temperature: float = 0.0,
    max_tokens: int = 64,
    image: Sequence[Path] = (),
    question: str = "",
) -> int:
    """The conversation at the terminal; with a `question` its answer alone. Gives the exit status.

    `image` names files to show with the first prompt. Raises UserError for what cannot be.
    """
    if max_tokens < 1 or not 0 <= temperature < math.inf:
        raise UserError("max-tokens must be at least 1 and temperature 0 or more")
    keyboard, screen = Keyboard(), Screen()
    chat = Conversation(target, stage, SamplingParams(max_tokens, temperature))
    for path in image:
        chat.show(path)
    console = Console(chat, screen, keyboard)
    if question:
        if not console.tell(chat.ask(question)):
            raise UserError("the question is longer than the model's context", "say less")
        return 0
    what, prompts = abilities(target)
    screen.line(what)
    if prompts:
        screen.line("try: " + "   ".join(prompts))
    screen.line(f"talking to {chat.names[0]}; /help lists commands")
    console.run()
    return 0


class Console:
    """A conversation, who types, who reads, and the commands (a table of them is below)."""

    def __init__(self, chat: Conversation, screen: Screen, keyboard: Keyboard) -> None:
        self.chat, self.screen, self.keyboard = chat, screen, keyboard
        self.left = False

    def run(self) -> None:
        """Until the input ends or a command leaves."""
        while not self.left and (typed := self.keyboard.read()) is not None:
            try:
                self._heed(typed)
            except UserError as error:
                self.screen.line(str(error))
            except KeyboardInterrupt:  # while a model is being loaded, say
                if not self.keyboard.interactive:
                    raise
                self.screen.line("\n(stopped)")

    def tell(self, answers: Iterator[tuple[str, Said]]) -> bool:
        """Answers as they come, Ctrl-C ends one; False where there was no room for them."""
        several, telling = len(self.chat.names) > 1, ""
        try:
            with self._stoppable():
                for name, said in answers:
                    if name != telling:
                        self.screen.begin(name if several else "")
                        telling = name
                    self.screen.tell(said)
                    if said.finish:
                        self._end(said.finish)
        except ContextFullError:
            return False
        return True

    def _end(self, finish: str) -> None:
        self.screen.end()
        if finish == "cancelled":
            self.screen.note("stopped")
        elif finish == "length":
            self.screen.note("cut off; /set max_tokens lets it say more")

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Ctrl-C ends an answer between two tokens, so that the engine stays whole."""
        if not self.keyboard.interactive:
            yield
            return
        before = signal.signal(signal.SIGINT, lambda *_: self.chat.stop())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _heed(self, typed: Typed) -> None:
        if typed.quoted or not typed.text.startswith("/"):
            self._say(self.chat.ask(typed.text))
            return
        name, rest = [*typed.text[1:].split(maxsplit=1), "", ""][:2]
        command = COMMANDS.get("quit" if name == "exit" else name)
        if command is None:
            near = nearest(name, COMMANDS) if name else ""
            hint = near if near.startswith("did") else ""
            raise UserError(f"no command /{name[:40]}", f"{hint} /help lists them")
        wanted = command.usage[:1] not in ("", "[")
        if (wanted and not rest) or (rest and not command.usage):
            raise UserError(f"{f'/{name} {command.usage}'.strip()}: {command.about}")
        command.work(self, rest)

    def _say(self, answers: Iterator[tuple[str, Said]]) -> None:
        if not self.tell(answers):
            self.screen.line("(the conversation was too long; it begins anew)")

    def _system(self, rest: str) -> None:
        self.chat.system = rest
        self.screen.note("told first from now on" if rest else "nothing is told first")

    def _retry(self, _: str) -> None:
        if not self.chat.params.temperature:
            self.screen.note("at temperature 0 all answers are the same; /set temperature 1")
        self._say(self.chat.retry())

    def _undo(self, _: str) -> None:
        self.screen.line(f"forgotten: {' '.join(self.chat.undo().split())[:70]}")

    def _history(self, _: str) -> None:
        for name in self.chat.names:
            for message in self.chat.messages(name):
                self.screen.message(message, name)

    def _save(self, rest: str) -> None:
        self.screen.line(f"row {self.chat.save(_path(rest))} of {rest}")

    def _load(self, rest: str) -> None:
        self.screen.line(f"{self.chat.load(_path(rest))} messages")

    def _set(self, rest: str) -> None:
        chat = self.chat
        if rest:
            name, value = [*rest.split(maxsplit=1), ""][:2]
            chat.set(name, value)
        drawn = f"temperature {chat.params.temperature:g}  max_tokens {chat.params.max_tokens}"
        self.screen.line(f"{drawn}  seed {chat.seed}")

    def _stage(self, rest: str) -> None:
        self.chat.use(rest)
        self.screen.line(f"talking to {rest}")

    def _stages(self, _: str) -> None:
        found = sorted(p.parent.parent.name for p in self.chat.target.glob("*/model/config.json"))
        self.screen.line(" ".join(found) or "only this one")

    def _compare(self, rest: str) -> None:
        names = rest.split()
        if len(names) != 2:
            raise UserError(f"/compare A B: {COMMANDS['compare'].about}")
        self.chat.use(*names)
        self.screen.line(f"asking {names[0]} and {names[1]}")

    def _image(self, rest: str) -> None:
        self.chat.show(_path(rest))
        self.screen.line("shown with the next prompt")

    def _reset(self, _: str) -> None:
        self.chat.reset()

    def _help(self, _: str) -> None:
        heads = {f"/{n} {c.usage}".strip(): c.about for n, c in COMMANDS.items()} | KEYS
        width = max(map(len, heads)) + 2
        self.screen.line("\n".join(f"{head:<{width}}{about}" for head, about in heads.items()))

    def _quit(self, _: str) -> None:
        self.left = True


class Command(NamedTuple):
    """`usage` is what stands behind its name, in brackets where it may be left out."""

    usage: str
    about: str
    work: Callable[[Console, str], None]


COMMANDS = {
    "system": Command("[TEXT]", "what the model is told first; alone: nothing", Console._system),
    "retry": Command("", "another answer, with the next seed", Console._retry),
    "undo": Command("", "forget the last prompt and its answer", Console._undo),
    "history": Command("", "the conversation so far", Console._history),
    "save": Command("FILE", "add the conversation to a file of rows for sft", Console._save),
    "load": Command("FILE", "go on with the last conversation of such a file", Console._load),
    "set": Command(
        "[NAME VALUE]", "temperature, max_tokens or seed; alone: shows them", Console._set
    ),
    "stage": Command("NAME", "talk to another stage, beginning anew", Console._stage),
    "stages": Command("", "the stages that can be talked to", Console._stages),
    "compare": Command("A B", "answer the next prompts with both stages", Console._compare),
    "image": Command("FILE", "show an image with the next prompt", Console._image),
    "reset": Command("", "forget the conversation, not what /system said", Console._reset),
    "help": Command("", "this list", Console._help),
    "quit": Command("", "leave (so does Ctrl-D)", Console._quit),
}
KEYS = {
    '"""': 'begins a prompt of several lines, which ends at """',
    "\\": "at a line's end: the prompt goes on with the next line",
    "Ctrl-C": "stops an answer; what was said of it is kept",
}


def _path(text: str) -> Path:
    if "\0" in text:
        raise UserError("no file has a name with a zero byte in it")
    with contextlib.suppress(RuntimeError):  # ~ of nobody
        return Path(text).expanduser()
    return Path(text)
