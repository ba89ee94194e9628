"""Submissions that must not be accepted, made of a specification and of its reference."""

from __future__ import annotations

import re

from puna.envs.proofs.acceptance import DIALECTS
from puna.envs.proofs.dialect import Spec, body_of

_NOTHING = "    done = 0\n"


def cheats(spec: Spec) -> dict[str, str]:
    """By name; which there are depends on the dialect."""
    dialect = DIALECTS[spec.dialect]
    found = {f"a stub that {name}": text for name, text in dialect.stubs(spec).items()}
    found["a false assertion"] = dialect.contradiction(spec)
    found["no body"] = spec.with_body("")
    reference = body_of(spec, spec.reference)
    if reference:
        found["another specification"] = "# easier\n" + spec.reference
    if spec.dialect == "micro-python":
        found |= _micro_python(spec)
        if reference:
            found |= _changed(spec, reference)
    elif spec.dialect == "dafny":
        found["assume"] = spec.with_body("{ assume false; }")
        found["no termination"] = spec.with_body("{ while true decreases * { } }")
    else:
        found["assume"] = spec.with_body("{ assume(false); loop { } }")
    return found


def _micro_python(spec: Spec) -> dict[str, str]:
    """Each begins with what would make it pass, were it allowed."""
    result = re.search(r"-> *(\w+) *:", spec.header)
    end = _NOTHING
    if result:
        end = "    return True\n" if result.group(1) == "bool" else "    return 0\n"
    name = spec.header.rpartition("\ndef ")[2].removeprefix("def ").partition("(")[0]
    return {
        "assume": spec.with_body(f"    #@ assume 0 == 1\n{end}"),
        "assume behind code": spec.with_body(f"    x = 0  #@ assume 0 == 1\n{end}"),
        "one more precondition": spec.with_body(f"    #@ requires 0 == 1\n{end}"),
        "an axiom": "#@ function no(x)\n" + spec.with_body(f"    #@ assume no(0) != no(0)\n{end}"),
        "an endless loop": spec.with_body(f"    while True:\n        x = 0\n{end}"),
        "a variant that stays": spec.with_body(
            f"    while True:\n        #@ variant 0\n        x = 0\n{end}"
        ),
        "defined once more": spec.with_body(end) + f"\ndef {name}(x: int) -> int:\n    return x\n",
        "in a string": spec.with_body(f'    s = "\n    #@ assume 0 == 1\n    "\n{end}'),
        "itself": spec.with_body(f"    return {name}(0)\n"),
    }


def _changed(spec: Spec, body: str) -> dict[str, str]:
    """The reference, with less promised or less proved."""
    lines = spec.header.splitlines(keepends=True)
    promises = [i for i, line in enumerate(lines) if "ensures" in line]
    fewer = "".join(line for i, line in enumerate(lines) if i != promises[-1])
    found = {
        "a promise less": fewer + body,
        "spaced otherwise": spec.header.replace("ensures ", "ensures  ") + body,
        "outside": spec.reference + "print(0)\n",
    }
    if "#@ variant" in body:
        kept = [x for x in body.splitlines(keepends=True) if "#@ variant" not in x]
        found["no variant"] = spec.with_body("".join(kept))
    return found
