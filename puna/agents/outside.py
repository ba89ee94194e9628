"""Outside programs as agents: each episode's program is pointed at an endpoint that captures it.

`Rollout(env, policies, agents={"agent": Outside("python my_agent.py")})`: docs/outside-agents.md
has the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from puna.agents.program import GRACE_S, Keeper, Program
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
HOST = "127.0.0.1"
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
        self.seconds = seconds
        self.once = any(PROMPT in word for word in self.words)
        self.lanes: dict[Seat, _Lane] = {}
        self.idle: list[Program] = []
        self.note: Callable[[str], None] | None = note
        self._office: _Office | None = None
        self._opening = threading.Lock()

    async def act(self, turn: Turn, ctx: Context) -> Message:
        """What the program says, having been shown what is new.

        Raises AgentLeftError where it ends or takes too long after it has asked the policy, and
        EndpointError where it does before, or says what is no message: then it is at fault itself.
        Raises EndpointError too, and UserError, where the policy failed at its last call.
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
        lane.guest.cut.clear()
        try:
            message = await office.do(self._exchange(lane, turn, new))
        except (AgentLeftError, EndpointError):
            _blame(lane.guest)
            raise
        _blame(lane.guest)
        lane.shown.append(message)
        # What was cut off on the way, a summary say, is no part of a message.
        cut = any(_same(answer, message) for answer in lane.guest.cut)
        seat.finish = "length" if cut else "stop"
        return message

    @property
    def office(self) -> _Office:
        """Where programs and their endpoint live; opened when the first episode begins."""
        with self._opening:  # rollouts may have a thread of their own
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
        lane.program = await self._start(self.words, lane)
        return await self._ask(lane, lane.program, told)

    async def _ask(
        self, lane: _Lane, program: Program, told: dict[str, Any]
    ) -> dict[str, Any] | None:
        async def told_and_heard() -> dict[str, Any] | None:
            await program.tell(told)
            return await program.hear()

        return await self._patiently(lane, told_and_heard())

    async def _start(self, words: list[str], lane: _Lane) -> Program:
        try:
            return await Program.start(words, self._variables(lane), self.office.keeper)
        except (OSError, ValueError) as error:  # a prompt of more than an argument may have
            raise EndpointError(f"the agent's program did not start: {error}") from None

    async def _run(self, lane: _Lane, new: list[Message]) -> Message:
        """The program run anew, on the last thing that was said."""
        prompt = next((m.text for m in reversed(new) if m.role == "user"), "")
        words = [word.replace(PROMPT, prompt) for word in self.words]
        lane.program = await self._start(words, lane)
        try:
            text = await self._patiently(lane, lane.program.rest())
        except ValueError as error:
            raise EndpointError(f"the agent's program: {error}") from None
        if lane.program.process.returncode or not (text.strip() or lane.guest.asked):
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
                    what = f"the agent's program took {self.seconds:.0f} s for a message"
                    if not lane.guest.asked:
                        raise EndpointError(f"{what}, and has not asked the policy")
                    self._say(what)
                    raise AgentLeftError("seconds")
        finally:
            task.cancel()

    def _say(self, line: str) -> None:
        note, self.note = self.note, None
        if note is not None:
            note(line)

    def _variables(self, lane: _Lane) -> dict[str, str]:
        address = self.office.address
        direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        direct = f"{direct},{HOST}" if direct else HOST
        return {
            "NO_PROXY": direct,
            "no_proxy": direct,
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
        await office.do(self._let_go(lane))

    async def _let_go(self, lane: _Lane) -> None:
        """Keep one that waits for what comes next; another is in the middle of something."""
        program, told = lane.program, False
        if program is None:
            return
        try:
            if lane.waits and program.running:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE_S):
                        await program.tell({"end": True})
                        told = True
        finally:
            if told:
                self.idle.append(program)
            else:
                await program.end()


def _blame(guest: Guest) -> None:
    """Raises what the policy failed with: that says nothing about the agent."""
    error = guest.failed
    if isinstance(error, UserError):
        raise error
    if error is not None:
        raise EndpointError(f"the policy gave no answer: {error!r:.300}") from error


def _same(answer: Message, message: Message) -> bool:
    """Whether a program said what it was told, but for white space around it."""
    texts = answer.text.strip(), message.text.strip()
    return texts[0] == texts[1] and len(answer.tool_calls) == len(message.tool_calls)


class _Office:
    """A thread with an event loop of its own: the endpoint, and the programs that are asked."""

    def __init__(self) -> None:
        try:
            import uvicorn

            from puna.gateway.capture import MODEL, Capture
        except ImportError as error:
            what = f"an outside agent needs {error.name}, which is not installed"
            raise UserError(what, 'pip install "puna[serve]"') from error
        self.capture, self.model, self.keeper = Capture(), MODEL, Keeper()
        self.socket = socket.create_server((HOST, 0), backlog=1024)
        self.address = f"http://{HOST}:{self.socket.getsockname()[1]}"
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
        self.keeper.close()
