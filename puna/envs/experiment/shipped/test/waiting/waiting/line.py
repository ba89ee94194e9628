"""The line at the counter."""

import math


def exponential_times(rng, mean, count):
    """`count` times of an exponential law with this mean, each of one `rng.random()`."""
    return [-mean * math.log(1.0 - rng.random()) for _ in range(count)]


def lindley_waits(gaps, services):
    """How long each customer waits; `gaps[i]` lies between customers i and i + 1."""
    waits = [0.0]
    for gap, service in zip(gaps, services):
        waits.append(max(0.0, waits[-1] + service - gap))
    return waits[: len(services)]
