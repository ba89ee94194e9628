"""Verdicts of the prover in process, of Why3 and of running, on the same random programs.

`python -m benchmarks.proofs -n 10000`: one JSON line at the end; programs on which they differ are
printed before it. Exit status 1: there is one. Needs why3, z3 and the extra `proofs`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence

from benchmarks.proofs.programs import Program, draw
from benchmarks.proofs.running import broken
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


def main() -> int:
    """Draw, judge, count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop drawing after these")
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    found: list[str] = []
    began = time.monotonic()
    for first in range(given.seed, given.seed + given.n, AT_ONCE):
        seeds = range(first, min(first + AT_ONCE, given.seed + given.n))
        some, different = differences([draw(random.Random(s), f"f{s}") for s in seeds], seed=first)
        counts += some
        found += different
        for text in different:
            print(text, flush=True)
        if time.monotonic() - began > 60 * given.minutes:
            break
    versions = Why3().version()
    total = {"programs": counts.total(), "different": len(found), "why3": versions}
    print(json.dumps({**total, "verdicts": dict(sorted(counts.items()))}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
