"""Run by the peer's interpreter: real OpenEnv servers, one kind each. Prints the port it has."""

import random
import socket
import sys

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server import Action, Environment, Observation, State, create_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation


class Guess(Action):
    word: str


class Move(Action):
    row: int
    column: int


class Seen(Observation):
    text: str


class Words(Environment):
    """Say the word shown backwards, twice; half a point each."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None):
        self.draw, self.steps = random.Random(seed), 0
        return self.show()

    def show(self, reward=None):
        self.word = "".join(self.draw.sample("abcdefgh", 5))
        return Seen(text=self.word, reward=reward, done=self.steps == 2)

    def step(self, action):
        if action.word == "crash":
            raise RuntimeError("the machine is on fire")
        self.steps += 1
        return self.show(0.5 * (action.word == self.word[::-1]))

    @property
    def state(self):
        return State(step_count=self.steps)


class Board(Words):
    """Name the cell; one point."""

    def show(self, reward=None):
        self.cell = (self.draw.randrange(9), self.draw.randrange(9))
        return Seen(
            text=f"row {self.cell[0]} column {self.cell[1]}", reward=reward, done=self.steps > 0
        )

    def step(self, action):
        self.steps += 1
        return self.show(float((action.row, action.column) == self.cell))


class Tools(MCPEnvironment):
    """Add with the tool, then hand in."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        server = FastMCP("adder")
        self.sum = self.right = None

        @server.tool
        def add(a: int, b: int) -> int:
            """The sum of a and b."""
            return a + b

        @server.tool
        def hand_in(value: int) -> str:
            """Hand in the sum."""
            self.right = value == self.sum
            return "thank you"

        super().__init__(server)

    def reset(self, seed=None, episode_id=None):
        draw = random.Random(seed)
        self.a, self.b = draw.randrange(99), draw.randrange(99)
        self.sum, self.right = self.a + self.b, None
        return Observation(metadata={"asked": f"{self.a} + {self.b}"})

    async def step_async(self, action, timeout_s=None, **kwargs):
        seen = await super().step_async(action, timeout_s, **kwargs)
        if self.right is not None:
            seen.reward, seen.done = float(self.right), True
        return seen

    def _step_impl(self, action, timeout_s=None, **kwargs):
        return Observation(metadata={"error": "only tools"})

    @property
    def state(self):
        return State(step_count=0)


KINDS = {
    "words": (Words, Guess, Seen),
    "board": (Board, Move, Seen),
    "tools": (Tools, CallToolAction, CallToolObservation),
}

if __name__ == "__main__":
    kind, places = sys.argv[1], int(sys.argv[2])
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app = create_app(*KINDS[kind], env_name=kind, max_concurrent_envs=places)
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listening])
