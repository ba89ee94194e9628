"""When a submission solves a specification, and when a specification asks for anything at all.

accept(y) = header and footer are the specification's, byte for byte
            and no banned word
            and every condition is valid, termination among them
examine(s) = the preconditions can hold together, and no stub meets the specification
"""

from __future__ import annotations

from puna.envs.proofs.braces import DAFNY, VERUS
from puna.envs.proofs.dialect import Dialect, Spec
from puna.envs.proofs.micropython import MicroPython
from puna.envs.proofs.prover import Prover, Verdict, decided

MICRO_PYTHON = MicroPython()
_ALL: tuple[Dialect, ...] = (MICRO_PYTHON, DAFNY, VERUS)
DIALECTS = {d.name: d for d in _ALL}


def accept(spec: Spec, submission: str, prover: Prover, deadline: float) -> Verdict:
    """`valid` where `submission` solves `spec`; the prover is asked again where it is unsure."""
    if why := DIALECTS[spec.dialect].refusal(spec, submission):
        return Verdict("refuted", why)
    return decided(prover, submission, deadline)


def examine(spec: Spec, prover: Prover, deadline: float) -> Verdict:
    """`valid` where nothing speaks against `spec`, `refuted` where it asks for nothing.

    The evidence shows the stub that meets it. A prover that is unsure of a stub does not speak
    against the specification; one that failed says nothing, and neither do we: `failed`.
    """
    dialect = DIALECTS[spec.dialect]
    empty = prover.prove(dialect.contradiction(spec), deadline)
    if empty.kind == "failed":
        return empty
    if empty.kind == "valid":
        return Verdict("refuted", "the preconditions contradict each other")
    for name, stub in dialect.stubs(spec).items():
        verdict = prover.prove(stub, deadline)
        if verdict.kind == "failed":
            return verdict
        if verdict.kind == "valid":
            return Verdict("refuted", f"a stub meets it, one that {name}")
    return Verdict("valid")
