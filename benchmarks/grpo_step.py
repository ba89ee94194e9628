"""Puna's half of the GRPO benchmark: the same spec, the same weights, the same reward as the peer.

`python benchmarks/grpo_step.py benchmarks/specs/grpo_164k.json '{"seed": 1}'` prints one JSON line;
with `--peer PYTHON` it runs the peer's script too and prints both and their ratio.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """CPU-seconds of each step after the warm-up, and the reward of every step."""
    import asyncio
    import resource

    import torch

    torch.set_num_threads(spec["threads"])
    from tiny_llama import make_checkpoint, prompt_texts

    from puna.core.messages import Message
    from puna.core.outcome import Scored
    from puna.core.stage import cpu_seconds
    from puna.engine.local import Engine
    from puna.engine.policy import SamplingParams
    from puna.engine.rendezvous import LocalSampler, Rendezvous
    from puna.gym.environment import OneTurn, SingleTurn
    from puna.gym.loop import Job, Rollout
    from puna.gym.task import Task
    from puna.train.checkpoint import load_model
    from puna.train.loop import micro_budget
    from puna.train.loss import PolicyLoss, policy_loss
    from puna.train.optim import OptimConfig, make_optimizer, update
    from puna.train.rl import grpo
    from puna.train.rl.batch import micro_batches
    from puna.train.rl.rows import rows_of, settle, weigh

    texts = prompt_texts(spec["prompts"])

    class EvenIds(SingleTurn):
        """The prompts of the spec; the reward needs ids, so the loop below gives it."""

        name = "even_ids"

        def task(self, split: str, index: int) -> Task:
            text = texts[index]
            return Task(f"even/{index}", (Message.user(text),), text)

        def start(self, task: Task, resources: Any, ctx: Any) -> OneTurn:
            return OneTurn(task)

        def judge(self, episodes: Any, hidden: Any, ctx: Any) -> Any:
            return [{"agent": Scored(0.0, False)} for _ in episodes]

    place = Path(spec["checkpoint"] or tempfile.mkdtemp())
    if not (place / "config.json").exists():
        make_checkpoint(place, spec["shape"], spec["seed"], spec["prompts"])
    model, tokenizer = load_model(place)
    if spec["dtype"] == "bf16":
        model.compute_dtype = torch.bfloat16
    optim = OptimConfig(
        lr=spec["learning_rate"],
        warmup=0,
        beta1=spec["adam_betas"][0],
        beta2=spec["adam_betas"][1],
        eps=spec["adam_epsilon"],
        weight_decay=spec["weight_decay"],
        clip=spec["max_grad_norm"],
    )
    optimizer = make_optimizer(model, optim)
    engine, meet = Engine(model, tokenizer, spec["seed"]), Rendezvous()
    engine.ignore_stops()
    samples = spec["completions"] // spec["prompts"]
    params = SamplingParams(spec["new_tokens"], spec["temperature"])
    rollout = Rollout(EvenIds(), {"agent": LocalSampler(engine, meet)}, params, meet=meet)
    loss = PolicyLoss(spec["epsilon"], spec["epsilon"], importance_cap=0.0)
    rewards, costs = [], []

    async def collect(step: int, into: list[Any]) -> None:
        jobs = [Job("train", i, samples, ("rl", step)) for i in range(spec["prompts"])]
        into += [group async for group in rollout.run(jobs)]

    with asyncio.Runner() as runner:
        for step in range(spec["steps"]):
            begun = cpu_seconds()
            rows = []
            groups: list[Any] = []
            runner.run(collect(step, groups))
            for group in groups:
                for t in group.trajectories:
                    ids = [
                        i
                        for b in t.branches["agent"]
                        for i, m in zip(b.ids, b.mask, strict=True)
                        if m
                    ]
                    t.outcomes = {"agent": Scored(sum(i % 2 == 0 for i in ids) / len(ids), False)}
                rows += rows_of(group, f"{step}/{group.task.id}")
            settle(rows)
            rewards.append(sum(r.reward or 0 for r in rows) / len(rows))
            rows = weigh(rows, grpo.advantages, {})
            batches = list(micro_batches(rows, micro_budget(0, model), False, model.device))
            total = sum(len(b.targets_M) for b in batches)
            for batch in batches:
                logp = batch.logprobs(model)
                terms = policy_loss(logp, batch.sampled_logp_M, batch.advantages_M, loss)
                (terms.loss / total).backward()
            update(model, optimizer, optim, optim.lr)
            costs.append(cpu_seconds() - begun)
    timed = costs[spec["warmup_steps"] :]
    return {
        "cpu_seconds_per_step": sum(timed) / len(timed),
        "cpu_seconds_per_step_median": sorted(timed)[len(timed) // 2],
        "rewards": [round(r, 4) for r in rewards],
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, and the peer after it where one is named."""
    args = sys.argv[1:]
    peer = args.pop(args.index("--peer") + 1) if "--peer" in args else None
    args = [a for a in args if a != "--peer"]
    spec = json.loads(Path(args[0]).read_text()) | json.loads(args[1] if len(args) > 1 else "{}")
    ours = measure(spec)
    print(json.dumps({"puna": ours}))
    if peer:
        command = [peer, str(HERE / "peers" / "trl_grpo.py"), args[0], json.dumps(spec)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps({"trl": {k: theirs[k] for k in ("cpu_seconds_per_step", "rewards")}}))
        print(f"ratio {ours['cpu_seconds_per_step'] / theirs['cpu_seconds_per_step']:.3f}")


if __name__ == "__main__":
    main()
