"""Verdicts on random programs set beside each other: the prover in process, Why3, and running.

`some(range(20))` draws twenty and judges them.
"""

from __future__ import annotations

import random
import re
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


def some(seeds: range) -> tuple[Counter[str], list[str]]:
    """One file of programs, in a process of its own."""
    drawn = [draw(random.Random(s), f"f{s}") for s in seeds]
    return differences(drawn, seed=seeds.start)
