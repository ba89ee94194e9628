"""Inspect's CPU cost of one trivial chat rollout, against a server that answers at once.

`PEER/bin/python benchmarks/peers/inspect_eval.py`, with the environment of
requirements-inspect.txt, prints one JSON line. The server's own cost is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FEW, MANY, REPEATS = 100, 600, 3


@contextlib.contextmanager
def instant_server() -> Iterator[str]:
    """The base URL of a running instant_server.py, which ends with the block."""
    script = Path(__file__).with_name("instant_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/v1"
    finally:
        process.stdin.close()
        process.wait(timeout=10)


def evaluate(samples: int, url: str, logs: Path, live: bool) -> float:
    """CPU-seconds of one evaluation of `samples` one-turn chats, with Inspect's live log or not."""
    from inspect_ai import Task
    from inspect_ai import eval as inspect_eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    # Half of the answers are right, so a scorer that does nothing would be noticed.
    data = [
        Sample(input=f"Is {i} a number?", target="yes" if i % 2 == 0 else "no")
        for i in range(samples)
    ]
    task = Task(dataset=MemoryDataset(data), solver=generate(), scorer=match())
    start = time.process_time()
    (log,) = inspect_eval(
        task,
        model="openai-api/instant/instant",
        model_base_url=url,
        log_dir=str(logs),
        log_realtime=live,
        display="none",
    )
    spent = time.process_time() - start
    assert log.status == "success", log.error
    assert log.results is not None
    assert log.results.completed_samples == samples
    accuracy = log.results.scores[0].metrics["accuracy"].value
    assert accuracy == 0.5, accuracy
    return spent


def slopes_ms(url: str, logs: Path, live: bool) -> list[float]:
    """CPU-milliseconds that each further sample costs, one value a repeat, in rising order."""
    slopes = []
    for _ in range(REPEATS):
        few, many = (evaluate(count, url, logs, live) for count in (FEW, MANY))
        slopes.append(round(1000 * (many - few) / (MANY - FEW), 3))
    return sorted(slopes)


def measure() -> dict[str, Any]:
    """The slope between few and many samples with the defaults, and with the live log off."""
    start = time.process_time()
    import inspect_ai

    import_cpu = time.process_time() - start
    with instant_server() as url, tempfile.TemporaryDirectory() as directory:
        logs = Path(directory)
        evaluate(FEW, url, logs, True)  # the first evaluation also imports the client
        default, quiet = slopes_ms(url, logs, True), slopes_ms(url, logs, False)
        stored = max(path.stat().st_size for path in logs.iterdir()) / MANY
    return {
        "peer": "inspect-ai",
        "marginal_cpu_ms_per_rollout": default[REPEATS // 2],
        "marginal_cpu_ms_per_rollout_no_live_log": quiet[REPEATS // 2],
        "repeats": {"default": default, "no_live_log": quiet},
        "samples": [FEW, MANY],
        "stored_bytes_per_rollout": round(stored),
        "import_cpu_seconds": import_cpu,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "version": inspect_ai.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Standard output gets the one line; whatever the peer prints goes to standard error."""
    os.environ |= {"OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", "INSTANT_API_KEY": "none"}
    with contextlib.redirect_stdout(sys.stderr):
        result = measure()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
