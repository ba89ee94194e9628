"""Outside programs as agents: each episode's program is pointed at an endpoint that captures it.

`Rollout(env, policies, agents={"agent": Outside("python my_agent.py")})`: docs/outside-agents.md
has the protocol.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from puna.agents.program import Program
from puna.core.errors import UserError
from puna.core.messages import Message
from puna.engine.policy import EndpointError
from puna.gym.environment import Turn
from puna.gym.loop import AgentLeftError, Context, unseen
from puna.gym.seat import Seat

if TYPE_CHECKING:
    from puna.gateway.capture import Guest

T = TypeVar("T")
PROMPT = "{prompt}"
LOOK_S = 0.5  # how often a deadline is looked at
START_S = 20.0


@dataclass(eq=False)
class _Lane:
    """An episode's program: `waits` while it has spoken and was not answered."""

    guest: Guest
    key: str
    program: Program | None = None
    waits: bool = False
    shown: list[Message] = field(default_factory=list)


class Outside:
    """An agent that is a program of the user's, of any language and library.

    `command` is split as a shell would, and run without one. With `{prompt}` in it the program runs
    once a turn, and what it prints is the answer. Without, it speaks in lines of JSON, and one
    process serves episode after episode. `seconds` bound what it takes for a message, the time in
    which the policy thinks left out. `note` is told, once, how an episode's program failed. Raises
    UserError where there is no such program.
    """

    def __init__(
        self,
        command: str,
        seconds: float = 300.0,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise UserError(f"agent {command!r}: {error}", "quote it as for a shell") from None
        if not self.words or shutil.which(self.words[0]) is None:
            what = f"agent {command!r}: there is no program {(self.words or [''])[0]!r}"
            raise UserError(what, "name one that a shell here would find")
        self.command, self.seconds = command, seconds
        self.once = any(PROMPT in word for word in self.words)
        self.lanes: dict[Seat, _Lane] = {}
        self.idle: list[Program] = []
        self.note: Callable[[str], None] | None = note
        self._office: _Office | None = None

    async def act(self, turn: Turn, ctx: Context) -> Message:
        """What the program says, having been shown what is new.

        Raises AgentLeftError where it ends or takes too long after it has asked the policy, and
        EndpointError where it ends before, or says what is no message: then it is at fault itself.
        """
        seat = ctx.policy(turn.role)
        office = self.office
        lane = self.lanes.get(seat)
        if lane is None:
            lane = self.lanes[seat] = _Lane(*office.admit(seat))
            ctx.leaving.push_async_callback(self._leave, seat)
        lane.guest.unstated = frozenset(t["function"]["name"] for t in turn.unstated)
        new = unseen(turn.messages, lane.shown)
        lane.shown += new
        message = await office.do(self._exchange(lane, turn, new))
        lane.shown.append(message)
        return message

    @property
    def office(self) -> _Office:
        """Where programs and their endpoint live; opened when the first episode begins."""
        if self._office is None:
            self._office = _Office()
        return self._office

    def close(self) -> None:
        """End all programs and the endpoint."""
        if self._office is not None:
            office, self._office = self._office, None
            office.close(self.idle)
            self.idle = []

    async def _exchange(self, lane: _Lane, turn: Turn, new: list[Message]) -> Message:
        if self.once:
            return await self._run(lane, new)
        told: dict[str, Any] = {"messages": [m.to_openai() for m in new]}
        lane.waits = False
        try:
            if lane.program is None:
                said = await self._begin(lane, turn, told)
            else:
                said = await self._ask(lane, lane.program, told)
            message = None if said is None else Message.from_openai(said | {"role": "assistant"})
        except ValueError as error:
            raise EndpointError(f"the agent's program said what is no message: {error}") from None
        if message is None:
            await self._gone(lane)
        assert message is not None
        lane.waits = True
        return message

    async def _begin(self, lane: _Lane, turn: Turn, told: dict[str, Any]) -> dict[str, Any] | None:
        """The first message of an episode, by a program that waits for one, or a new one."""
        begin = {
            "base_url": f"{self.office.address}/v1",
            "api_key": lane.key,
            "model": self.office.model,
            "tools": [*turn.tools, *turn.unstated],
        }
        told = {"begin": begin, **told}
        while self.idle:  # one that is for one episode alone ends when it hears of another
            lane.program = self.idle.pop()
            said = await self._ask(lane, lane.program, told)
            if said is not None or lane.guest.asked:
                return said
            await lane.program.end()
        lane.program = await Program.start(self.words, self._variables(lane))
        return await self._ask(lane, lane.program, told)

    async def _ask(
        self, lane: _Lane, program: Program, told: dict[str, Any]
    ) -> dict[str, Any] | None:
        await program.tell(told)
        return await self._patiently(lane, program.hear())

    async def _run(self, lane: _Lane, new: list[Message]) -> Message:
        """The program run anew, on the last thing that was said."""
        prompt = next((m.text for m in reversed(new) if m.role == "user"), "")
        words = [word.replace(PROMPT, prompt) for word in self.words]
        lane.program = await Program.start(words, self._variables(lane))
        try:
            text = await self._patiently(lane, lane.program.rest())
        except ValueError as error:
            raise EndpointError(f"the agent's program: {error}") from None
        if lane.program.process.returncode:
            await self._gone(lane)
        await lane.program.end()
        lane.program = None
        return Message.assistant(text.strip())

    async def _gone(self, lane: _Lane) -> None:
        """The program has ended: the policy's words drove it there, or it cannot work at all."""
        assert lane.program is not None
        how = await lane.program.ended()
        if lane.guest.asked:
            self._say(f"the agent's program left an episode ({how})")
            raise AgentLeftError("left")
        raise EndpointError(f"the agent's program ended before it asked the policy ({how})")

    async def _patiently(self, lane: _Lane, hearing: Coroutine[Any, Any, T]) -> T:
        """What it says within its time, in which the policy's own does not count."""
        task, left = asyncio.ensure_future(hearing), self.seconds
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=LOOK_S)
                if done:
                    return task.result()
                left -= 0 if lane.guest.open else LOOK_S
                if left <= 0:
                    self._say(f"the agent's program took {self.seconds:.0f} s for a message")
                    raise AgentLeftError("seconds")
        finally:
            task.cancel()

    def _say(self, line: str) -> None:
        note, self.note = self.note, None
        if note is not None:
            note(line)

    def _variables(self, lane: _Lane) -> dict[str, str]:
        address = self.office.address
        return {
            "OPENAI_BASE_URL": f"{address}/v1",
            "OPENAI_API_KEY": lane.key,
            "OPENAI_MODEL": self.office.model,
            "ANTHROPIC_BASE_URL": address,
            "ANTHROPIC_API_KEY": lane.key,
        }

    async def _leave(self, seat: Seat) -> None:
        lane = self.lanes.pop(seat)
        office = self._office
        if office is None:
            return
        office.capture.dismiss(lane.key)
        if lane.program is not None:
            await office.do(self._let_go(lane.program, lane.waits))

    async def _let_go(self, program: Program, waits: bool) -> None:
        """Keep one that waits for what comes next; another is in the middle of something."""
        if waits and program.running:
            await program.tell({"end": True})
            self.idle.append(program)
        else:
            await program.end()


class _Office:
    """A thread with an event loop of its own: the endpoint, and the programs that are asked."""

    def __init__(self) -> None:
        try:
            import uvicorn

            from puna.gateway.capture import MODEL, Capture
        except ImportError as error:
            what = f"an outside agent needs {error.name}, which is not installed"
            raise UserError(what, 'pip install "puna[serve]"') from error
        self.capture, self.model = Capture(), MODEL
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(
            self.capture.app,
            log_level="error",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, daemon=True, name="puna-outside")
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self.server.serve(sockets=[self.socket]))
        finally:
            self.loop.close()

    def admit(self, seat: Seat) -> tuple[Guest, str]:
        """An episode of the running event loop, and its key."""
        from puna.gateway.capture import Guest

        guest = Guest(seat, asyncio.get_running_loop())
        return guest, self.capture.admit(guest)

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of `work`, done there; cancelled with whoever waits for it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def close(self, programs: list[Program]) -> None:
        """End `programs`, then the endpoint and the thread."""

        async def end() -> None:
            await asyncio.gather(*(p.end(gently=True) for p in programs))
            self.server.should_exit = True

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(START_S)
        self.thread.join(START_S)
