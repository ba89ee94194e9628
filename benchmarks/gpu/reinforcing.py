"""A step of RL on one GPU: 8 tasks, 16 answers of 1,024 tokens each, sampled and learned from."""

from __future__ import annotations

import time

import torch

from benchmarks.gpu.decoding import prompts, sampled
from benchmarks.gpu.models import DENSE, NoStops, drawn
from puna.core.outcome import Scored
from puna.engine.local import Engine
from puna.gym.trajectory import Branch
from puna.train.loop import micro_budget
from puna.train.loss import PolicyLoss, policy_loss
from puna.train.optim import OptimConfig, make_optimizer, update
from puna.train.rl.batch import micro_batches
from puna.train.rl.rows import Row

TASKS, ANSWERS, NEW, STEPS = 8, 16, 1024, 4


def reinforcement() -> None:
    """Prints the seconds of every step, sampling and learning apart."""
    model = drawn(DENSE, torch.float32)
    model.compute_dtype = torch.bfloat16
    model.compile_blocks()
    optim = OptimConfig(lr=1e-6)
    optimizer = make_optimizer(model, optim)
    engine = Engine(model, NoStops(), 0, slots=TASKS * ANSWERS, memory=20 << 30)
    for step in range(STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        texts = [t for t in prompts(TASKS, 100, 200, seed=step) for _ in range(ANSWERS)]
        done = sampled(engine, texts, NEW, step)
        middle = time.perf_counter()
        rows = []
        for i, (text, answer) in enumerate(zip(texts, done, strict=True)):
            branch = Branch()
            branch.extend_prompt(list(text))
            branch.extend_sampled(answer.ids, answer.logprobs, step)
            right = 1.0 if i % 3 else -1.0
            rows.append(
                Row(
                    "solver",
                    str(i // ANSWERS),
                    "",
                    Scored(right, right > 0),
                    step,
                    branch,
                    i,
                    right,
                )
            )
        gap = 0.0
        budget = micro_budget(0, model)
        for batch in micro_batches(rows, budget, True, model.device):
            logp = batch.logprobs(model)
            terms = policy_loss(logp, batch.sampled_logp_M, batch.advantages_M, PolicyLoss())
            (terms.loss / (NEW * len(rows))).backward()  # type: ignore[no-untyped-call]
            gap = max(gap, terms.sampler_gap)
        update(model, optimizer, optim, 1e-6)
        torch.cuda.synchronize()
        end = time.perf_counter()
        print(
            f"RL step {step}: {end - began:.2f} s, sampling {middle - began:.2f}, learning "
            f"{end - middle:.2f}; largest gap of log-probabilities {gap:.2f}",
            flush=True,
        )
