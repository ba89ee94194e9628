"""Counts and times of the server, in Prometheus' text format; `Metrics().text()` at /metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Histogram:
    """How often what was seen was at most each of `bounds` (seconds)."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.sum = 0.0

    def see(self, value: float, times: int = 1) -> None:
        """One observation, or several of the same value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def lines(self, name: str) -> list[str]:
        """Cumulative, as the format has it."""
        out, total = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            out.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*out, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """What `puna serve` counts; routes are its own names, never what a client made up."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = self.said_tokens = 0
        self.first, self.between = Histogram(FIRST), Histogram(BETWEEN)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it, with `gauges` by name: what they are, and their value now."""
        out = _head("puna_requests_total", "counter", "Requests answered, by route and status.")
        out += [
            f'puna_requests_total{{route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(self.requests.items())
        ]
        counted = {
            "puna_prompt_tokens_total": ("Tokens of prompts read.", self.prompt_tokens),
            "puna_said_tokens_total": ("Tokens handed to clients.", self.said_tokens),
        }
        for name, (about, value) in counted.items():
            out += [*_head(name, "counter", about), f"{name} {value}"]
        for name, (about, now) in gauges.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            out += [*_head(name, kind, about), f"{name} {now:g}"]
        name = "puna_time_to_first_token_seconds"
        out += _head(name, "histogram", "From a request to its first token.")
        out += self.first.lines(name)
        name = "puna_time_between_tokens_seconds"
        out += _head(name, "histogram", "From one token of a request to the next.")
        out += self.between.lines(name)
        return "\n".join(out) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
