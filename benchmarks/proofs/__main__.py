"""Verdicts of the prover in process, of Why3 and of running, on the same random programs.

`python -m benchmarks.proofs -n 10000 --jobs 2 --journal done.jsonl`: one JSON line at the end;
programs on which they differ are printed before it. The same command goes on with the journal. Exit
status 1: there is a difference. Needs why3, z3 and the extra `proofs`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

from benchmarks.proofs.programs import Program, draw
from benchmarks.proofs.running import broken
from puna.core.journal import Journal, read
from puna.envs.proofs import why3
from puna.envs.proofs.fast import OUTSIDE, STEPS
from puna.envs.proofs.solving import judge
from puna.envs.proofs.why3 import Why3

AT_ONCE = 20  # programs in one file of Why3
_GOAL = re.compile(
    r'^File "[^"]*", line (\d+),[^\n]*:\n(?:Sub-g|G)oal[^\n]*\nProver result is: (\w+)', re.M
)


def why3_all(texts: Sequence[str], seconds: float) -> list[str]:
    """`valid` or `unknown` of each text, all put into one file; `failed` where it said neither."""
    whole, starts = "", []
    for text in texts:
        starts.append(whole.count("\n") + 1)
        whole += text + "\n"
    said, status = why3.ask(whole, seconds)
    goals = _GOAL.findall(said)
    if status not in (0, 2) or len(goals) != said.count("Prover result is:"):
        return [Why3().prove(text, seconds).kind for text in texts]
    bad = {int(line) for line, result in goals if result != "Valid"}
    ends = [*starts[1:], whole.count("\n") + 1]
    return [
        "unknown" if any(a <= line < b for line in bad) else "valid"
        for a, b in zip(starts, ends, strict=True)
    ]


def differences(
    drawn: Sequence[Program], seconds: float = 0.1, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """How often which verdicts came together, and the programs whose verdicts cannot all be right.

    Where Why3 does not prove what the other did, it is asked again, alone and for longer.
    """
    counts: Counter[str] = Counter()
    found = []
    theirs = why3_all([p.text for p in drawn], seconds)
    for i, (program, other) in enumerate(zip(drawn, theirs, strict=True)):
        kind, why = judge(program.text, STEPS)
        if kind == "valid" and other != "valid":
            other = Why3().prove(program.text, 20 * seconds).kind
        ran = None if why.startswith(OUTSIDE) else broken(program.text, random.Random(seed + i))
        holds = "breaks" if ran else "holds"
        made = "changed" if program.mutated else "as made"
        counts[f"{program.family}, {made}: {kind}, why3 {other}, {holds}"] += 1
        agree = (kind == "valid") == (other == "valid") and kind in ("valid", "refuted")
        if not agree or (kind == "valid" and ran) or why.startswith(OUTSIDE):
            found.append(f"{kind} ({why}), why3 {other}, {ran or holds}\n{program.text}")
    return counts, found


def _some(seeds: range) -> tuple[Counter[str], list[str]]:
    """One file of programs, in a process of its own."""
    drawn = [draw(random.Random(s), f"f{s}") for s in seeds]
    return differences(drawn, seed=seeds.start)


def main() -> int:
    """Draw, judge, count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after these")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--journal", type=Path, help="goes on with what this file says is done")
    given = parser.parse_args()
    done = {r["first"]: r for r in read(given.journal)} if given.journal else {}
    log = Journal(given.journal) if given.journal else None
    waiting = [
        range(first, min(first + AT_ONCE, given.seed + given.n))
        for first in range(given.seed, given.seed + given.n, AT_ONCE)
    ]
    waiting = [s for s in waiting if done.get(s.start, {}).get("stop", 0) < s.stop]
    end = time.monotonic() + 60 * given.minutes
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        running = {}
        while waiting or running:
            while waiting and len(running) < given.jobs and time.monotonic() < end:
                seeds = waiting.pop(0)
                running[pool.submit(_some, seeds)] = seeds
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                seeds = running.pop(future)
                counts, found = future.result()
                record = {"first": seeds.start, "stop": seeds.stop}
                record |= {"counts": dict(counts), "different": found}
                done[seeds.start] = record
                for text in found:
                    print(text, flush=True)
                if log is not None:
                    log.append(record, sync=True)
    inside = [r for r in done.values() if given.seed <= r["first"] < given.seed + given.n]
    total: Counter[str] = Counter()
    for record in inside:
        total += Counter(record["counts"])
    different = sum(len(r["different"]) for r in inside)
    said = {"programs": total.total(), "different": different, "why3": Why3().version()}
    print(json.dumps({**said, "verdicts": dict(sorted(total.items()))}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
