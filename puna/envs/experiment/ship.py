"""Makes the files of the tasks that ship: `python -m puna.envs.experiment.ship`.

To be run after a change of a repository in `shipped`; a test says when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from puna.core.files import json_bytes, write_bytes
from puna.core.journal import SCHEMA
from puna.envs.experiment.env import SHIPPED, Experiment, ExperimentConfig
from puna.envs.experiment.propose import MaskProposer
from puna.envs.experiment.source import Source, read_source
from puna.gym.admission import Gate

MOST = 3  # functions that are missing at once
SOURCES = {
    "train": Source(
        repo="train/clusters",
        command="python3 run.py 0",
        second="python3 run.py 1",
        results="results.json",
    ),
    "test": Source(repo="test/waiting", command="python3 run.py 0", second="python3 run.py 1"),
}


def records(split: str) -> Iterator[Mapping[str, Any]]:
    """Every choice of up to `MOST` functions, with its admission."""
    source = read_source(SOURCES[split], SHIPPED)
    for masked in range(1, MOST + 1):
        env = Experiment(ExperimentConfig(masked=masked))
        proposer = MaskProposer(env, source)
        gate = Gate(env)
        try:
            for number in range(proposer.count):
                draft = proposer.draw(number, 0)
                found = asyncio.run(gate.screen(draft)) or asyncio.run(gate.decide(draft))
                yield {"draft": proposer.to_json(draft), "admission": found.to_json()}
        finally:
            gate.close()


def main() -> None:
    """Write both files."""
    for split in SOURCES:
        lines = []
        for record in records(split):
            lines.append(json_bytes({"schema": SCHEMA, **record}) + b"\n")
            verdict = record["admission"]
            print(split, record["draft"]["masked"], verdict["reason"] or "admitted", flush=True)
        write_bytes(SHIPPED / f"{split}.jsonl", b"".join(lines))


if __name__ == "__main__":
    main()
