"""When a submission solves a specification, and when a specification asks for anything at all.

accept(y) = header and footer are the specification's, byte for byte
            and no banned word
            and every condition is valid, termination among them
examine(s) = the preconditions can hold together, and no stub meets the specification
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Fault:
    """Why a specification asks for nothing, and the `program` that shows it, which is proved.

    `kind`: "contradictory" where the preconditions cannot hold together, "vacuous" where any result
    and any contents of the lists will do, "stub-passable" where a program that does nothing will.
    """

    kind: str
    what: str
    program: str


def examine(spec: Spec, prover: Prover, deadline: float) -> Fault | Verdict:
    """The fault of a specification; a `valid` verdict where nothing speaks against it.

    A prover that is unsure of a stub does not speak against the specification; one that failed
    says nothing, and neither do we: `failed`.
    """
    dialect = DIALECTS[spec.dialect]
    false = dialect.contradiction(spec)
    empty = prover.prove(false, deadline)
    if empty.kind == "failed":
        return empty
    if empty.kind == "valid":
        return Fault("contradictory", "the preconditions contradict each other", false)
    for name, stub in dialect.stubs(spec).items():
        verdict = prover.prove(stub, deadline)
        if verdict.kind == "failed":
            return verdict
        if verdict.kind == "valid":
            anything = dialect.anything(spec)
            if anything and prover.prove(anything, deadline).kind == "valid":
                what = f"whatever is done meets it, and so does a stub that {name}"
                return Fault("vacuous", what, stub)
            return Fault("stub-passable", f"a stub meets it, one that {name}", stub)
    return Verdict("valid")
