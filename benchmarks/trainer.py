"""A training step of `nano` beside transformers' Trainer: CPU-seconds a step, the same weights.

`python benchmarks/trainer.py .peers/trl/bin/python [--preset nano] [--threads 2]`: both learn the
same rows of 256 random tokens, 32 a step, AdamW, fp32, gradients clipped; a step's cost is the
difference of a long and a short run, so that starting up is not counted. In turns, three times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, LENGTH, SHORT, LONG, TURNS = 32, 256, 5, 45, 3
PEER = Path(__file__).parent / "peers" / "hf_trainer.py"


def ours(directory: Path, steps: int, threads: int) -> None:
    """`steps` steps as the pretrain stage makes them."""
    import torch
    from torch import Tensor

    from puna.core.threads import keep_freed_memory
    from puna.models.hf import load
    from puna.models.moe import Routes
    from puna.text.packing import IGNORE
    from puna.train.lanes import Lanes
    from puna.train.loop import micro_budget
    from puna.train.loss import next_token_loss
    from puna.train.optim import OptimConfig, make_optimizer, update

    torch.set_num_threads(threads)
    keep_freed_memory()
    model, config = load(directory)
    optim = OptimConfig(weight_decay=0.0)
    optimizer = make_optimizer(model, optim)
    ids = torch.randint(0, config.vocab_size, (ROWS, LENGTH), generator=torch.manual_seed(0))
    lanes, per = Lanes(model, threads), max(1, micro_budget(0, model) // LENGTH)
    parts = ids.tensor_split(lanes.even(-(-ROWS // per)))

    def following(part: Tensor) -> Tensor:
        return torch.cat((part[:, 1:], part.new_full((len(part), 1), IGNORE)), 1)

    def read(part: Tensor) -> tuple[Tensor, float]:
        routes = Routes() if config.num_experts else None
        hidden = model(part, routes=routes)
        loss = next_token_loss(model, hidden.flatten(0, 1), following(part).flatten())
        return loss / (ROWS * (LENGTH - 1)), float(loss.detach())

    for _ in range(steps):
        found = lanes.backward(parts, read)
        update(model, optimizer, optim, 1e-4)
    print(json.dumps({"loss": sum(found) / (ROWS * (LENGTH - 1))}))


def cost(command: list[str]) -> float:
    """CPU-seconds of a command. Raises SystemExit where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints both costs of a step and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", nargs="?", default=".peers/trl/bin/python")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", nargs=2, metavar=("DIR", "STEPS"))
    given = parser.parse_args()
    if given.ours:
        ours(Path(given.ours[0]), int(given.ours[1]), given.threads)
        return
    from puna.models.hf import save
    from puna.models.presets import build, preset

    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as directory:
        save(build(preset(given.preset), 0), directory)
        threads = str(given.threads)
        ways = {
            "puna": [sys.executable, __file__, "--threads", threads, "--ours", directory],
            "transformers": [given.peer, str(PEER), directory],
        }
        steps: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, command in ways.items():
                more = [] if name == "puna" else [str(ROWS), str(LENGTH), threads]
                costs = [cost([*command, str(n), *more]) for n in (SHORT, LONG)]
                steps[name].append((costs[1] - costs[0]) / (LONG - SHORT))
    middle = {name: statistics.median(found) for name, found in steps.items()}
    for name, found in steps.items():
        print(f"{name}: {middle[name]:.4f} CPU-s a step ({', '.join(f'{f:.4f}' for f in found)})")
    print(f"transformers / puna: {middle['transformers'] / middle['puna']:.2f}")


if __name__ == "__main__":
    main()
