"""What `Fast` runs in its bounded process: the conditions of a text, one by one, put to z3.

`judge(text, steps=10_000_000)` is `("valid", "")`, or a kind and the first reason.
"""

from __future__ import annotations

from typing import Any

import z3

from puna.envs.proofs.conditions import conditions
from puna.envs.proofs.fast import OUTSIDE
from puna.envs.proofs.language import Function, parse
from puna.envs.proofs.terms import LanguageError

LEAST = 20_000  # steps for each condition that comes after all were used up


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
    context = z3.Context()
    unknown, left = "", steps
    for condition in conditions(function, context):
        where = f"line {condition.line}: {condition.what}"
        kind, used, model = _ask(context, (*condition.facts, z3.Not(condition.goal)), left)
        if kind == "sat":
            return "refuted", f"{where} does not hold{_shown(function, model)}"
        if kind == "unknown":
            unknown = unknown or f"{where} was not decided"
        left = max(steps - used, LEAST)
    return ("unknown", unknown) if unknown else ("valid", "")


def _ask(context: Any, facts: tuple[Any, ...], steps: int) -> tuple[str, int, Any]:
    """z3's answer, the steps that its context has taken till then, a model where there is one."""
    solver = z3.SimpleSolver(ctx=context)
    solver.set("random_seed", 0)
    solver.set("rlimit", max(1, steps))
    solver.add(*facts)
    answer = str(solver.check())
    used = next((int(n) for name, n in solver.statistics() if name == "rlimit count"), 0)
    return answer, used, solver.model() if answer == "sat" else None


def _shown(function: Function, model: Any) -> str:
    """The arguments of a counterexample that have a short name."""
    values = {str(d): model[d] for d in model.decls()}
    told = [f"{n} = {values[n]}" for n, t in function.params.items() if t != "list" and n in values]
    return f", as where {', '.join(told)}" if told else ""
