"""Runs every case of parity and prints what it found; exits with 1 if one fails.

`python -m benchmarks.parity [PART OF A NAME]`.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from benchmarks.parity.case import Case, Found
from benchmarks.parity.cases import CASES, missing, version

HEAD = ("case", "peer", "dtype", "tolerance", "difference", "power", "", "note")
ROW = "{:<45} {:<22} {:<5} {:>9} {:>10} {:>7}  {:<4} {}"


def row(case: Case, found: Found) -> str:
    """One line of the table; power is the weakest of the features left out."""
    tolerance = f"{case.allowed:.0e}" if case.allowed else "bitwise"
    difference, weakest = f"{found.difference:.1e}", min(found.off.values(), default=float("nan"))
    power = f"{weakest / case.needed * 100:.0f} x"
    if case.unit:
        tolerance, difference = f"0 {case.unit}", f"{found.difference:.0f}"
        power = f"{weakest:.0f}"
    verdict = "ok" if case.passes(found) else "FAIL"
    notes = [found.note, *(f"blind to: {name}" for name in case.blind(found))]
    notes += [] if found.off else ["leaves nothing out: proves nothing"]
    return ROW.format(
        case.name, f"{case.peer} {version(case.peer)}", case.dtype, tolerance,
        difference, power, verdict, "; ".join(n for n in notes if n),
    ).rstrip()  # fmt: skip


def main(part: str = "") -> int:
    """Run the cases whose name holds `part`; the number that failed or could not run."""
    print(f"torch {torch.__version__}, one thread\n" + ROW.format(*HEAD).rstrip(), flush=True)
    failed, begun = [], time.process_time()
    for case in CASES.values():
        if part not in case.name:
            continue
        if case.incomparable:
            print(f"{case.name:<45} not comparable here: {case.incomparable}", flush=True)
            continue
        lacking = missing(case.peer)
        if lacking:
            print(f"{case.name:<45} not run: {lacking}", flush=True)
            failed.append(case.name)
            continue
        found = case.measure()
        print(row(case, found), flush=True)
        if not case.passes(found):
            failed.append(case.name)
    print(
        f"{time.process_time() - begun:.0f} CPU-seconds; {len(failed)} failed: {failed or 'none'}"
    )
    return min(1, len(failed))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:2]))
