"""Measure the counter: python3 run.py SEED prints its numbers as JSON."""

import json
import random
import sys

from waiting.line import exponential_times, lindley_waits
from waiting.summary import batch_error, lag_correlation, late_share

rng = random.Random(int(sys.argv[1]))
gaps = exponential_times(rng, 1.25, 2000)
services = exponential_times(rng, 1.0, 2000)
waits = lindley_waits(gaps, services)
print(
    json.dumps(
        {
            "wait": {"mean": sum(waits) / len(waits), "error": batch_error(waits, 20)},
            "correlation": [lag_correlation(waits, lag) for lag in (1, 5, 25)],
            "late": late_share(waits, 5.0),
        }
    )
)
