"""Episodes that a small real model plays, by an outside program or without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn

from puna.agents.outside import Outside
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler
from puna.evals.evaluate import local_policy
from puna.gateway.capture import Capture
from puna.gym.environment import Environment
from puna.gym.loop import Job, Rollout
from puna.gym.registry import load_environment
from puna.gym.trajectory import Branch, Trajectory
from puna.models import load as load_model
from puna.text.tokenizer import Tokenizer

PROGRAMS = Path(__file__).parent / "programs"
SHOP = {"prompt": "none", "intents": 1}
LAST = 999_999  # the train task that the clerk knows by heart
Play = Callable[..., list[Trajectory]]


def sampler_of(clerk: Path) -> LocalSampler:
    """The clerk, to be played."""
    torch.set_num_threads(1)
    model, _ = load_model(clerk)
    found, _ = local_policy(model.eval(), Tokenizer.load(clerk), 7)
    return found


def answers(branch: Branch) -> int:
    """How many runs of sampled tokens there are."""
    mask = branch.mask
    return sum(mask[i] and not mask[i - 1] for i in range(1, len(mask)))


@asynccontextmanager
async def answering(capture: Capture) -> AsyncIterator[int]:
    """The port at which the endpoint answers."""
    server = uvicorn.Server(uvicorn.Config(capture.app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@contextmanager
def player(sampler: LocalSampler) -> Iterator[Play]:
    """Plays train tasks of an environment; its programs end with the block."""
    opened: list[Outside] = []

    def played(
        agent: str = "",
        env: Environment | None = None,
        tasks: tuple[int, ...] = (LAST,),
        seconds: float = 60.0,
        programs: int = 2,
        heat: float = 0.0,
        most: int = 96,
    ) -> list[Trajectory]:
        env = env or load_environment("shop", SHOP, 0)
        outside = [Outside(agent, seconds, print)] if agent else []
        opened.extend(outside)
        agents: Any = dict.fromkeys(env.roles, outside[0]) if outside else {}
        params = SamplingParams(most, heat)
        rollout = Rollout(
            env, {"agent": sampler}, params, agents=agents, meet=sampler.meet, wave=programs
        )

        async def run() -> list[Trajectory]:
            jobs = [Job("train", i, 1, ("test",)) for i in tasks]
            return [t async for g in rollout.run(jobs) for t in g.trajectories]

        try:
            return asyncio.run(run())
        finally:
            rollout.close()

    try:
        yield played
    finally:
        for each in opened:
            each.close()
