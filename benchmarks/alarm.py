"""Planted hacks and clean runs under the watch: `python benchmarks/alarm.py [tuning|held-out ...]`.

Twenty seeds of each world of tests/train/hacks, with its shadow and without; a run is a simulated
learner's sixty steps through the RL collector, to the first alarm. Which worlds the limits were
set on, and which only report, is said in hack_worlds.py. The onset is the step from which cheating
grows; it is half of its most eight steps later.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "train" / "hacks"))

from hack_learner import play
from hack_worlds import FIRST, HELD_OUT, TUNING

SEEDS = 20


def main() -> None:
    sets = {"tuning": TUNING, "first": FIRST, "held-out": HELD_OUT}
    worlds = [name for wanted in sys.argv[1:] or sets for name in sets[wanted]]
    print("world      shadow  cheating alarmed  steps after onset (median, most)  clean alarmed")
    for name in worlds:
        for blind in (False, True):
            cheating = [play(name, seed, True, blind) for seed in range(SEEDS)]
            clean = [play(name, seed, False, blind) for seed in range(SEEDS)]
            alarmed = [p for p in cheating if p.alarms]
            delays = [p.alarms[0].step - p.onset for p in alarmed] or [0]
            signs = sorted({a.sign for p in [*cheating, *clean] for a in p.alarms})
            print(
                f"{name:10} {'no' if blind else 'yes':7} {len(alarmed):8} of {SEEDS} "
                f"{statistics.median(delays):20.0f}, {max(delays):2} "
                f"{sum(bool(p.alarms) for p in clean):18} of {SEEDS}   {', '.join(signs)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
