"""The final answer of a solution, and whether it is the right one; nothing is ever evaluated.

`final_answer("3 + 4 = 7\\n#### 7")` is "7"; `equal("0.5", "1/2", exact=True)` is True.
"""

from __future__ import annotations

import re
from fractions import Fraction

from puna.sandbox.limited import CallError, LimitError, limited

LONGEST = 120  # characters of a final answer; more is no answer
SECONDS, MEMORY_MB = 2.0, 512

_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(?:/(\d+))?", re.ASCII)


def final_answer(solution: str) -> str:
    """What stands in the last `\\boxed{...}` or, where that is later, behind the last `####`.

    "" where there is neither, where it is empty, unclosed or longer than any answer: earlier ones
    do not count then.
    """
    boxed, marked = solution.rfind("\\boxed{"), solution.rfind("####")
    if boxed < 0 and marked < 0:
        return ""
    if boxed > marked:
        found = _braced(solution[boxed + len("\\boxed{") :][: LONGEST + 1])
    else:
        found = solution[marked + len("####") :].split("\n", 1)[0].strip()
    return found if len(found) <= LONGEST else ""


def _braced(text: str) -> str:
    """Up to the brace that closes; "" where none does."""
    depth = 1
    for at, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if not depth:
            return text[:at].strip()
    return ""


def number(text: str) -> Fraction | None:
    """The number that `text` is in decimal or as a fraction; None for anything else."""
    found = _NUMBER.fullmatch(text)
    if len(text) > LONGEST or not found or not (found[2] or found[3]):
        return None
    sign, whole, decimals, below = found.groups()
    value = Fraction((whole or "0").replace(",", "") + (decimals or ""))
    if below is not None:
        if decimals or not int(below):
            return None
        value /= int(below)
    return -value if sign == "-" else value


def equal(answer: str, reference: str, exact: bool) -> bool:
    """Whether two final answers are the same: as numbers if both are, else as math-verify sees it.

    With `exact` nothing but a number is right. An answer on which math-verify meets its limit of
    time or memory is wrong.
    """
    given, wanted = number(answer), number(reference)
    if exact or not answer or (given is not None and wanted is not None):
        return given is not None and given == wanted
    from puna.envs.math.algebra import same

    try:
        return bool(limited(same, answer, reference, seconds=SECONDS, memory_mb=MEMORY_MB))
    except (LimitError, CallError):
        return False
