"""The prover in process: conditions of the small language, put to z3. Milliseconds a program.

`Fast().prove(text, deadline=1)`. Needs `pip install 'puna[proofs]'`. What decides is z3's own count
of steps, not the clock, so a verdict does not depend on how busy the machine is.
"""

from __future__ import annotations

import importlib.util

from puna.envs.proofs.language import Function, parse
from puna.envs.proofs.prover import Verdict
from puna.envs.proofs.terms import LanguageError
from puna.sandbox import LimitError, limited
from puna.sandbox.limited import CallError

STEPS = 4_000_000  # of z3 in a second, about
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
        try:
            seconds = 5 * deadline + 2
            kind, evidence = limited(judge, source, int(deadline * STEPS), seconds=seconds)
        except LimitError as error:
            return Verdict("unknown", str(error))
        except (CallError, ImportError, OSError) as error:
            return Verdict("failed", str(error))
        return Verdict(kind, evidence)


def judge(source: str, steps: int) -> tuple[str, str]:
    """Kind and evidence of a verdict, in this very process, which a hard text may take along."""
    try:
        return _judged(parse(source), steps)
    except LanguageError as error:
        return "refuted", f"{OUTSIDE}{error}"
    except RecursionError:
        return "refuted", f"{OUTSIDE}terms nest too deep"


def _judged(function: Function, steps: int) -> tuple[str, str]:
    """A condition that is refuted decides; else one that stays unknown does."""
    import z3

    from puna.envs.proofs.conditions import conditions

    context = z3.Context()
    unknown = ""
    for condition in conditions(function, context):
        kind, used, model = _ask(context, (*condition.facts, z3.Not(condition.goal)), steps)
        steps -= used
        where = f"line {condition.line}: {condition.what}"
        if kind == "sat":
            return "refuted", f"{where} does not hold{_shown(function, model)}"
        if kind == "unknown":
            unknown = unknown or f"{where} was not decided"
        if steps <= 0:
            return "unknown", unknown or f"the steps ended after {where}"
    return ("unknown", unknown) if unknown else ("valid", "")


def _ask(context: object, facts: tuple[object, ...], steps: int) -> tuple[str, int, object]:
    """z3's answer, the steps it took, and a model where there is one."""
    import z3

    solver = z3.SimpleSolver(ctx=context)
    solver.set("random_seed", 0)
    solver.set("rlimit", max(1, steps))
    solver.add(*facts)
    answer = str(solver.check())
    used = next((int(n) for name, n in solver.statistics() if name == "rlimit count"), 0)
    return answer, used, solver.model() if answer == "sat" else None


def _shown(function: Function, model: object) -> str:
    """The arguments of a counterexample that have a short name."""
    values = {str(d): model[d] for d in model.decls()}  # type: ignore[attr-defined, index]
    told = [f"{n} = {values[n]}" for n, t in function.params.items() if t != "list" and n in values]
    return f", as where {', '.join(told)}" if told else ""
