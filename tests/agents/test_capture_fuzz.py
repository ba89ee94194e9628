"""Whatever an episode's client sends has an answer, and none is the endpoint's fault."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from fuzzing import fuzz
from outside_play import answering, sampler_of

from puna.engine.policy import SamplingParams
from puna.gateway.capture import MODEL, Capture, Guest
from puna.gateway.describe import BODIES
from puna.gateway.wire import DIALECTS
from puna.gym.seat import SamplerSeat


def description() -> dict[str, object]:
    """The routes of the endpoint, as OpenAPI has them."""

    def post(path: str) -> dict[str, object]:
        body = {"required": True, "content": {"application/json": {"schema": BODIES[path]}}}
        return {"post": {"requestBody": body, "responses": {"200": {"description": "an answer"}}}}

    about = {"title": "an episode", "version": "1"}
    return {"openapi": "3.1.0", "info": about, "paths": {path: post(path) for path in DIALECTS}}


def test_no_request_of_an_episodes_client_is_the_endpoints_fault(clerk: Path) -> None:
    sampler, capture = sampler_of(clerk), Capture()

    async def main() -> Counter[tuple[str, int]]:
        seat = SamplerSeat(sampler, SamplingParams(4, 0.0), ("x", "agent"))
        key = capture.admit(Guest(seat, asyncio.get_running_loop()))
        headers = {"authorization": f"Bearer {key}"}
        async with answering(capture) as port:
            address = f"http://127.0.0.1:{port}"
            counts = await asyncio.to_thread(
                fuzz, address, description(), 12, model=MODEL, headers=headers
            )
        assert seat.branches  # the valid ones were sampled, and recorded
        assert all(sum(b.mask) > 0 for b in seat.branches)
        return counts

    counts = asyncio.run(main())
    for path in DIALECTS:
        of_path = {status: n for (route, status), n in counts.items() if route == f"POST {path}"}
        assert of_path.get(400, 0) >= 1, counts
        talks = path != "/v1/completions"  # an episode goes on by messages
        assert (of_path.get(200, 0) >= 1) == talks, counts
