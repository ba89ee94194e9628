"""Whether two formulas are the same value, by math-verify; called within limits, in a process.

`same("\\\\frac{1}{2}", "0.5")` is True.
"""

from __future__ import annotations

import logging

from math_verify import LatexExtractionConfig, parse, verify

# It warns at each call that its clocks are off; the caller has one.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def same(answer: str, reference: str) -> bool:
    """Whether both, read as LaTeX, are the same. The caller limits time and memory."""
    read = [LatexExtractionConfig()]
    found, wanted = (
        parse(f"\\boxed{{{text}}}", read, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (answer, reference)
    )
    return bool(found and wanted and verify(wanted, found, timeout_seconds=None))
