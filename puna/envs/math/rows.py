"""Problems from files of GSM8K's shape: lines of JSON with `question` and `answer`.

`read_problems(Path("train.jsonl"))`; an answer ends in `#### 72` (or in `\\boxed{72}`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.envs.math.answers import final_answer, number
from puna.gym.environment import Problem

_EXAMPLE = 'each line is {"question": "...", "answer": "... #### 72"}'


def read_problems(path: Path, exact: bool) -> list[Problem]:
    """Every problem of a file once, in its order; with `exact` all answers must be numbers.

    Raises UserError naming the file and the first line that is wrong.
    """
    try:
        # Not splitlines: JSON texts may hold U+2028 and others that it takes for line ends.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", _EXAMPLE) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text", _EXAMPLE) from error
    found: dict[str, Problem] = {}
    for at, line in enumerate(lines, 1):
        if line.strip():
            try:
                problem = _problem(json.loads(line), exact)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {at}: {error}", _EXAMPLE) from error
            found.setdefault(problem.prompt, problem)
    if not found:
        raise UserError(f"{path} has no problems", _EXAMPLE)
    return list(found.values())


def _problem(row: Any, exact: bool) -> Problem:
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, not {type(row).__name__}")
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"'{key}' is {row.get(key)!r:.40}, not text")
    answer = final_answer(row["answer"])
    if not answer:
        raise ValueError("the answer ends neither in #### nor in \\boxed{}")
    if exact and number(answer) is None:
        raise ValueError(f"the answer is {answer!r:.40}, not a number")
    return Problem(row["question"].strip(), answer, hidden={"solution": row["answer"].strip()})
