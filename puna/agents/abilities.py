"""What a model was made to do: `abilities(Path("runs/quickstart"))` -> a sentence, some prompts."""

from __future__ import annotations

import json
from pathlib import Path

from puna.core.errors import UserError
from puna.gym.registry import load_environment


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
