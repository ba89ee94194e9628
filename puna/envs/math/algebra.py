"""Whether two formulas are the same value, by math-verify; called within limits, in a process.

`same("\\\\frac{1}{2}", "0.5")` is True.
"""

from __future__ import annotations

from math_verify import LatexExtractionConfig, parse, verify


def same(answer: str, reference: str) -> bool:
    """Both read as LaTeX. The caller limits time and memory, so math-verify's clocks are off."""
    read = [LatexExtractionConfig()]
    found, wanted = (
        parse(f"\\boxed{{{text}}}", read, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (answer, reference)
    )
    return bool(found and wanted and verify(wanted, found, timeout_seconds=None))
