"""The prover in process: conditions of the small language, put to z3. Milliseconds a program.

`Fast().prove(text, deadline=1)`. Needs `pip install 'puna[proofs]'`. What decides is z3's own count
of steps, not the clock, so a verdict does not depend on how busy the machine is.
"""

from __future__ import annotations

import importlib.util

from puna.envs.proofs.prover import Verdict
from puna.sandbox import LimitError, limited
from puna.sandbox.limited import CallError

STEPS = 10_000_000  # of z3 in a second, about
MISSING = "z3-solver is not installed: pip install 'puna[proofs]'"
OUTSIDE = "outside the language: "


class Fast:
    """Knows the small language only, and runs in a bounded process."""

    name = "fast"

    def version(self) -> str:
        """z3's version."""
        if importlib.util.find_spec("z3") is None:
            return ""
        import z3

        return str(z3.get_version_string())

    def prove(self, source: str, deadline: float) -> Verdict:
        """Judge `source`; `deadline` is in seconds of an idle processor, counted in z3's steps."""
        if importlib.util.find_spec("z3") is None:
            return Verdict("failed", MISSING)
        from puna.envs.proofs.solving import judge

        try:
            seconds = 5 * deadline + 2
            kind, evidence = limited(judge, source, int(deadline * STEPS), seconds=seconds)
        except LimitError as error:
            return Verdict("unknown", str(error))
        except (CallError, ImportError, OSError) as error:
            return Verdict("failed", str(error))
        return Verdict(kind, evidence)
