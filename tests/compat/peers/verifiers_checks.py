"""Run by the peer's interpreter, with Puna and the tasksets on its path: what real tasksets give.

A folder to export into; JSON out.
"""

import asyncio
import json
import sys
from pathlib import Path

import verifiers.v1 as vf

from puna.compat import verifiers
from puna.core.errors import UserError
from puna.core.outcome import to_json
from puna.gym.audit.probes import ask_here
from puna.gym.environment import say
from puna.gym.loop import Context, play_scripts
from puna.gym.verify import judge_group
from puna.gym.workers import Workers


def outcome(env, task, script):
    async def judged():
        episode = await play_scripts(env, task, {"agent": script}, Context())
        return await judge_group(env, task, [episode], Context(), Workers(1))

    return to_json(asyncio.run(judged())[0]["agent"])


def inward(name, settings, answers):
    env = verifiers.load(name, settings, 0)
    task = env.task("test", 0)
    audit = asyncio.run(ask_here(env, 5, ["oracle", "idle", "constant answer", "wrong type"]))
    keys = {s: [env.task(s, i).key for i in range(env.count(s))] for s in ("train", "test")}
    return {
        "hashes": [env.content_hash, verifiers.load(name, settings, 0).content_hash],
        "shown": [[m.role, m.text] for m in task.messages],
        "counts": [len(keys["train"]), len(keys["test"])],
        "common": sorted(set(keys["train"]) & set(keys["test"])),
        "oracle": outcome(env, task, env.oracle(task)["agent"]),
        "answers": {a: outcome(env, task, say(a)) for a in answers},
        "audit": {name: [r.status != "hole", r.seen] for name, r in audit.items()},
    }


def refusal(name, settings):
    try:
        verifiers.load(name, settings, 0)
    except UserError as error:
        return str(error)
    return "loaded"


def trace(task, said):
    """A trace as a rollout of verifiers leaves one."""
    nodes = [
        vf.MessageNode(message=vf.UserMessage(content=task.data.prompt)),
        vf.MessageNode(parent=0, message=vf.AssistantMessage(content=said), sampled=True),
    ]
    return vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig(runtime=vf.SubprocessConfig())),
        nodes=nodes,
        calls=[vf.ModelCall(node=1, finish_reason="stop")],
    )


def outward(folder):
    """arithmetic as a package, loaded and scored by verifiers alone."""
    verifiers.export("arithmetic", folder, {"terms": 3})
    sys.path.insert(0, str(folder))
    config = vf.taskset_config_type("puna-arithmetic").model_validate(
        {"id": "puna-arithmetic", "count": 5}
    )
    out = []
    for task in vf.load_taskset(config):
        right = str(eval(task.data.prompt.rstrip("=")))
        row = {"prompt": task.data.prompt, "valid": asyncio.run(task.validate(None))}
        for name, said in {"right": right, "wrong": right + "1", "nothing": ""}.items():
            scored = trace(task, said)
            asyncio.run(task.score(scored))
            row[name] = scored.reward
        cut = trace(task, right)
        cut.stop("max_output_tokens")
        asyncio.run(task.score(cut))
        out.append({**row, "cut": cut.reward})
    return out


print(
    json.dumps(
        {
            "word_sums": inward("word-sums", {"taskset": {"most": 6}}, ["0", "x", "\ud800"]),
            "capitals": inward("me/capitals@0.1", {"answer": "gold"}, ["Q", ""]),
            "export": outward(Path(sys.argv[1])),
            "back": inward("puna-arithmetic", {"taskset": {"count": 20}, "answer": "name"}, []),
            "refused": {
                "openenv": refusal("openenv", {"taskset": {"base_url": "http://127.0.0.1:1"}}),
                "boxed": refusal("boxed", {}),
                "nowhere": refusal("nowhere", {}),
                "setting": refusal("word-sums", {"taskset": {"mst": 1}}),
            },
            "torch": "torch" in sys.modules,
        }
    )
)
