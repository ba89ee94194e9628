"""The micro-Python programs that Debian packages with Why3, their bodies removed: held out.

`specifications(FOLDER)`. A program whose function promises something asks for that function. One
that reads numbers and asserts something of one variable at its end asks for a function of these
numbers. The others (no input, several loops one after another) ask for nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from puna.core.errors import UserError
from puna.envs.proofs.dialect import Spec, SpecError
from puna.envs.proofs.micropython import MicroPython
from puna.envs.proofs.terms import RESERVED

NAME = "why3-examples"
FOLDER = Path("/usr/share/doc/why3-examples/examples/python")
_INPUT = re.compile(r"(\w+) = int\(input\(.*\)\)\Z")
_NOTE = re.compile(r"#@ *(\w+) +(.*\S)")
_WORD = re.compile(r"[a-z]\w*")
_PROMISE = re.compile(r" +#@ *ensures\b")


def specifications(folder: Path) -> tuple[Spec, ...]:
    """All that the programs of a folder ask for, by their names.

    Raises UserError where there are none.
    """
    found = []
    for path in sorted(folder.glob("*.py")):
        try:
            found.append(specification(path.stem, path.read_text()))
        except SpecError:
            continue
    if not found:
        fix = "apt-get install --no-install-recommends why3-examples"
        raise UserError(f"no programs of Why3 in {folder}", fix)
    return tuple(found)


def specification(name: str, text: str) -> Spec:
    """What a program asks for. Raises SpecError, saying why it asks for nothing."""
    lines = text.splitlines()
    promises = [i for i, line in enumerate(lines) if _PROMISE.match(line)]
    if promises:
        spec = MicroPython().spec(name, "\n".join(lines[: promises[-1] + 1]) + "\n")
    else:
        spec = MicroPython().spec(name, _of_script(name, lines))
    return Spec(spec.name, spec.dialect, spec.header)


def _of_script(name: str, lines: list[str]) -> str:
    """The function that a program without one stands for."""
    said = [line for line in lines if line.strip()]
    inputs = [m.group(1) for line in said if (m := _INPUT.match(line))]
    if not inputs:
        raise SpecError("it promises nothing, and reads no numbers")
    notes = [m.groups() for line in said if (m := _NOTE.match(line))]
    last = _NOTE.match(said[-1])
    if not last or last.group(1) != "assert":
        raise SpecError("it does not end in an assertion")
    promise = last.group(2)
    others = sorted({w for w in _WORD.findall(promise) if w not in (*inputs, *RESERVED)})
    if len(others) != 1:
        raise SpecError(f"it asserts something of {', '.join(others) or 'its inputs alone'}")
    head = f"def {name}({', '.join(f'{n}: int' for n in inputs)}) -> int:"
    needs = [f"    #@ requires {term}" for word, term in notes if word == "assume"]
    gives = re.sub(rf"\b{others[0]}\b", "result", promise)
    return "\n".join([head, *needs, f"    #@ ensures {gives}"]) + "\n"
