"""How many planted holes the audit finds, and how many sound environments it accuses.

`python benchmarks/audit_holes.py a sound` audits variant a of each broken environment and the sound
ones. Probes were tuned on `a` to `d` and `sound` to `sound3`; `e sound4` was run once, after that.
Names after that choose some; `--verbose` prints the findings as well.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.planted import broken, sound, sound2, sound3, sound4
from puna.core.stats import mean_interval
from puna.core.threads import default_threads
from puna.gym.audit import Audit, audit

SOUND = {"sound": sound, "sound2": sound2, "sound3": sound3, "sound4": sound4}


def targets(variant: str, fine: str) -> dict[str, tuple[str, bool]]:
    """Name -> (target, whether it is broken)."""
    found = {name: (target, True) for name, target in broken(variant).items()}
    return found | {name: (target, False) for name, target in SOUND[fine]().items()}


def main(variant: str, fine: str, only: list[str], verbose: bool) -> None:
    chosen = {n: t for n, t in targets(variant, fine).items() if not only or n in only}
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
                "sound": fine,
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
