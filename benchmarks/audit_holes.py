"""How many planted holes the audit finds, and how many sound environments it accuses.

`python benchmarks/audit_holes.py a even` audits variant a of each broken environment and the even
half of the sound ones: those that probes may be tuned on. `b odd` are the halves that tuning never
saw. `--json` prints the findings as well.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.planted import broken, sound
from puna.core.stats import mean_interval
from puna.core.threads import default_threads
from puna.gym.audit import Audit, audit


def targets(variant: str, half: str) -> dict[str, tuple[str, bool]]:
    """Name -> (target, whether it is broken)."""
    fine = sorted(sound().items())[0 if half == "even" else 1 :: 2]
    found = {name: (target, True) for name, target in broken(variant).items()}
    return found | {name: (target, False) for name, target in fine}


def main(variant: str, half: str, only: list[str], verbose: bool) -> None:
    chosen = {n: t for n, t in targets(variant, half).items() if not only or n in only}
    began = time.monotonic()
    with ThreadPoolExecutor(default_threads()) as pool:
        audits = dict(zip(chosen, pool.map(lambda t: audit(t[0]), chosen.values()), strict=True))
    missed = [n for n, (_, bad) in chosen.items() if bad and audits[n].passed]
    accused = [n for n, (_, bad) in chosen.items() if not bad and not audits[n].passed]
    for name, found in audits.items():
        if verbose or name in accused:
            print(f"{name} ({found.seconds:.1f} s): {_told(found)}", file=sys.stderr)
    rows = {
        "found": [[float(n not in missed)] for n, (_, bad) in chosen.items() if bad],
        "accused": [[float(n in accused)] for n, (_, bad) in chosen.items() if not bad],
    }
    print(
        json.dumps(
            {
                "variant": variant,
                "half": half,
                **{k: f"{mean_interval(v)} of {len(v)}" for k, v in rows.items() if v},
                "missed": missed,
                "accused_names": accused,
                "seconds": round(time.monotonic() - began),
            }
        )
    )


def _told(found: Audit) -> str:
    return "; ".join(f"{f.probe}: {f.seen[:160]}" for f in found.holes) or "passed"


if __name__ == "__main__":
    words = [w for w in sys.argv[1:] if not w.startswith("--")]
    main(words[0], words[1], words[2:], "--verbose" in sys.argv)
