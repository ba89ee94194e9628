"""A run whose journal holds an episode of the shop that the reference played."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from puna.core.outcome import Scored
from puna.gym.loop import Context, identity, play_scripts
from puna.gym.registry import load_environment
from puna.gym.trajectory import Trajectory, save_artifacts

SETTINGS = {"prompt": "none", "intents": 1, "forbidden": 0.0}


def write_shop_run(run: Path) -> Path:
    """One stage of kind rl; the first train task whose reference changes an order's row."""
    env = load_environment("shop", SETTINGS, 5)
    for index in range(100):
        task = env.task("train", index)
        if task.hidden["scene"].requests[0].tool == "refund":
            break
    resources = env.setup()
    episode = asyncio.run(play_scripts(env, task, env.oracle(task), Context(), resources))
    (outcomes,) = env.judge([episode], task.hidden, Context())  # type: ignore[misc]
    assert outcomes["agent"] == Scored(1.0, True, {"state": 1.0, "policy": 1.0})
    said = Trajectory(
        env=identity(env), task_id=task.id, split="train", index=index, sample=0, episode=episode,
        outcomes=dict(outcomes), tags=task.tags, key=("rl", 0), seeds={"env": 5, "agent": 1},
    )  # fmt: skip
    stage = run / "rl"
    stage.mkdir(parents=True)
    save_artifacts(said, stage / "artifacts")
    worse = {**said.to_json(), "key": ["rl", 1], "outcomes": {"agent": _scored()}}
    lines = [{"step": 1, **said.to_json()}, {"step": 2, **worse}]
    (stage / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    config = {"env": {"id": "shop", **SETTINGS}}
    made = {"id": "rl", "kind": "rl", "config": config, "seed": 5, "result": {}}
    (stage / "stage.json").write_text(json.dumps(made))
    plan = {"name": "shop", "title": "Customers", "stages": [{"id": "rl", "kind": "rl"}]}
    (run / "run.json").write_text(json.dumps(plan))
    return run


def _scored() -> dict[str, object]:
    found = Scored(0.25, False, {"state": 0.5, "policy": 0.0}, "broke <b>verify</b>")
    return {"kind": "scored", **found.__dict__, "parts": dict(found.parts)}
