"""Verification conditions of a function: formulas that all hold where it meets its specification.

`conditions(parse(text))`. The function is run once with symbols for values. Where ways meet again
the values are joined (`If(test, a, b)`), so the conditions grow with the text and not with the
number of ways through it; a loop is cut at its invariants, what it assigns is forgotten there. This
is the calculus of weakest preconditions read forwards (Flanagan and Saxe, POPL 2001; Leino 2005).

Integers are unbounded; `//` rounds down and `%` has the sign of the divisor, as in Python; an index
counts from the end where it is negative; no two lists are the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import z3

from puna.envs.proofs import terms
from puna.envs.proofs.language import (
    Assert,
    Assign,
    Function,
    If,
    Jump,
    Label,
    Return,
    Statement,
    Store,
    While,
)
from puna.envs.proofs.terms import Term

Formula = Any  # z3 carries no types
Facts = tuple[Formula, ...]


@dataclass(frozen=True)
class Condition:
    """`facts` imply `goal`; `what` and `line` say which part of the program asks for it."""

    line: int
    what: str
    facts: Facts
    goal: Formula


@dataclass(frozen=True)
class State:
    """What is known at a point: a formula for each name, and the facts that lead there.

    `bound`: names that a quantifier has taken, which no label takes back.
    """

    values: dict[str, Formula]
    facts: Facts
    bound: frozenset[str] = frozenset()


def conditions(function: Function, context: z3.Context) -> list[Condition]:
    """All conditions of a function, in the order of its text."""
    return list(_Run(function, context).all())


class _Run:
    """One symbolic run of a function."""

    def __init__(self, function: Function, context: z3.Context) -> None:
        self.function, self.context, self.fresh = function, context, 0
        self.found: list[Condition] = []
        self.lists = [n for n, kind in function.params.items() if kind == "list"]
        self.lengths = {n: z3.Int(f"len {n}", context) for n in self.lists}
        values = {n: self._symbol(n, kind) for n, kind in function.params.items()}
        self.initial = dict(values)
        state = State(values, tuple(n >= 0 for n in self.lengths.values()))
        for _, term in function.requires:
            state = self._knowing(state, self.formula(term, state))
        self.start = state
        self.labels: dict[str, dict[str, Formula]] = {"": self.initial}
        self.breaks: list[State] = []
        self.heads: list[tuple[While, list[Formula]]] = []

    def all(self) -> Iterator[Condition]:
        end = self.block(self.function.body, self.start)
        if end is not None:
            self._ensure(end, None, self.function.body[-1].line)
        yield from self.found

    # Statements

    def block(self, body: Sequence[Statement], state: State | None) -> State | None:
        """The state behind a block; None where no way leads there."""
        for statement in body:
            if state is None:
                return None
            state = self.step(statement, state)
        return state

    def step(self, statement: Statement, state: State) -> State | None:
        line = statement.line
        match statement:
            case Assign(name=name, value=value):
                return self._with(state, name, self.value(value, state, line))
            case Store(name=name, at=at, value=value):
                place = self.value(at, state, line)
                new = self.value(value, state, line)
                self._in_bounds(name, place, state.facts, line)
                spot = self._spot(name, place)
                return self._with(state, name, z3.Store(state.values[name], spot, new))
            case Assert(term=term):
                goal = self.formula(term, state)
                self._check(line, "assertion", state.facts, goal)
                return self._knowing(state, goal)
            case Label(name=name):
                self.labels[name] = dict(state.values)
                return state
            case Return(value=value):
                self._ensure(state, self.value(value, state, line), line)
                return None
            case If():
                return self._if(statement, state)
            case While():
                return self._while(statement, state)
            case Jump(kind=kind):
                if kind == "break":
                    self.breaks.append(state)
                else:
                    self._turn(state, line)
                return None

    def _if(self, statement: If, state: State) -> State | None:
        test = self.value(statement.test, state, statement.line)
        yes = self.block(statement.yes, self._knowing(state, test))
        no = self.block(statement.no, self._knowing(state, z3.Not(test)))
        return self._joined(state, test, yes, no)

    def _joined(
        self, before: State, test: Formula, yes: State | None, no: State | None
    ) -> State | None:
        """The state where two ways meet; names that a branch alone knows are forgotten."""
        known = before.values
        if yes is None or no is None:
            one = yes or no
            return one and State({n: one.values[n] for n in known}, one.facts)
        values = {
            n: y if z3.eq(y := yes.values[n], no.values[n]) else z3.If(test, y, no.values[n])
            for n in known
        }
        base = len(before.facts)
        more = [side.facts[base + 1 :] for side in (yes, no)]
        facts = tuple(z3.Implies(test, f) for f in more[0])
        facts += tuple(z3.Implies(z3.Not(test), f) for f in more[1])
        return State(values, before.facts + facts)

    def _while(self, loop: While, state: State) -> State | None:
        self._hold(loop, state, "invariant at the start of the loop")
        head = replace(state, values={**state.values})
        for name in sorted(_assigned(loop.body) & set(state.values)):
            kind = "list" if name in self.lists else _kind(state.values[name])
            head.values[name] = self._unknown(name, kind)
        for _, term in loop.invariants:
            head = self._knowing(head, self.formula(term, head))
        if not loop.variant:
            self._check(loop.line, "termination: the loop has no variant", head.facts, self._no())
        test = self.value(loop.test, head, loop.line)
        outer, self.breaks = self.breaks, []
        before = [self.formula(term, head) for term in loop.variant]
        self.heads.append((loop, before))
        end = self.block(loop.body, self._knowing(head, test))
        if end is not None:
            self._turn(end, loop.line)
        self.heads.pop()
        left, self.breaks = self.breaks, outer
        return self._behind(head, test, left)

    def _behind(self, head: State, test: Formula, left: Sequence[State]) -> State:
        """The state behind a loop: its test failed, or one of the `break`s was met.

        A new truth value says which; so what is known there never stands inside a choice.
        """
        if not left:
            return self._knowing(head, z3.Not(test))
        base, values = len(head.facts), dict(head.values)
        ends = [self._unknown("end", "bool") for _ in left]
        facts = [z3.Or(z3.Not(test), *ends)]
        for end, state in zip(ends, left, strict=True):
            facts.append(z3.Implies(end, z3.And(*state.facts[base:])))
            values = {
                n: v if z3.eq(v, state.values[n]) else z3.If(end, state.values[n], v)
                for n, v in values.items()
            }
        return State(values, (*head.facts, *facts))

    def _turn(self, state: State, line: int) -> None:
        """A way back to the head of the innermost loop."""
        loop, before = self.heads[-1]
        self._hold(loop, state, "invariant after the loop's body")
        if before:
            after = [self.formula(term, state) for term in loop.variant]
            less, equal = [], self._yes()
            for new, old in zip(after, before, strict=True):
                less.append(z3.And(equal, old >= 0, new < old))
                equal = z3.And(equal, new == old)
            self._check(loop.line, "termination: the variant", state.facts, z3.Or(*less))

    def _hold(self, loop: While, state: State, what: str) -> None:
        facts = state.facts
        for line, term in loop.invariants:
            goal = self.formula(term, state)
            self._check(line, what, facts, goal)
            facts = (*facts, goal)

    def _ensure(self, state: State, result: Formula | None, line: int) -> None:
        values = {n: state.values[n] for n in self.lists}
        values |= {n: v for n, v in self.initial.items() if n not in values}
        if result is not None:
            values["result"] = result
        final = State(values, state.facts)
        for at, term in self.function.ensures:
            goal = self.formula(term, final)
            self._check(at, f"postcondition at line {line}", final.facts, goal)
            final = self._knowing(final, goal)

    # Terms

    def value(self, term: Term, state: State, line: int) -> Formula:
        """The value of a term of the program; what must hold for it to have one is checked."""
        match term:
            case terms.Binary(op="and" | "or" as op, left=left, right=right):
                first = self.value(left, state, line)
                met = first if op == "and" else z3.Not(first)
                second = self.value(right, self._knowing(state, met), line)
                return z3.And(first, second) if op == "and" else z3.Or(first, second)
            case terms.Binary(op=op, left=left, right=right):
                first, second = self.value(left, state, line), self.value(right, state, line)
                if op in ("//", "%"):
                    self._check(line, "division by zero", state.facts, second != 0)
                return _binary(op, first, second)
            case terms.Unary(op=op, of=of):
                inner = self.value(of, state, line)
                return -inner if op == "-" else z3.Not(inner)
            case terms.Choice(test=test, yes=yes, no=no):
                chosen = self.value(test, state, line)
                first = self.value(yes, self._knowing(state, chosen), line)
                second = self.value(no, self._knowing(state, z3.Not(chosen)), line)
                return z3.If(chosen, first, second)
            case terms.Index(name=name, at=at):
                place = self.value(at, state, line)
                self._in_bounds(name, place, state.facts, line)
                return self._element(state.values[name], name, place)
        return self.formula(term, state)

    def formula(self, term: Term, state: State) -> Formula:
        """The value of a term of the specification, which always has one."""
        match term:
            case terms.Number(value=number):
                return z3.IntVal(number, self.context)
            case terms.Truth(value=truth):
                return z3.BoolVal(truth, self.context)
            case terms.Name(name=name):
                return state.values[name]
            case terms.Unary(op=op, of=of):
                inner = self.formula(of, state)
                return -inner if op == "-" else z3.Not(inner)
            case terms.Binary(op=op, left=left, right=right):
                return _binary(op, self.formula(left, state), self.formula(right, state))
            case terms.Index(name=name, at=at):
                return self._element(state.values[name], name, self.formula(at, state))
            case terms.Length(name=name):
                return self.lengths[name]
            case terms.Choice(test=test, yes=yes, no=no):
                chosen = self.formula(test, state)
                return z3.If(chosen, self.formula(yes, state), self.formula(no, state))
            case terms.Quantified(kind=kind, names=names, body=body):
                bound = {n: self._unknown(n, "int") for n in names}
                values = {**state.values, **bound}
                inside = replace(state, values=values, bound=state.bound | bound.keys())
                inner = self.formula(body, inside)
                make = z3.ForAll if kind == "forall" else z3.Exists
                return make(list(bound.values()), inner)
            case terms.Then(of=of, label=label):
                then = {n: v for n, v in self.labels[label].items() if n not in state.bound}
                values = {**state.values, **then}
                return self.formula(of, replace(state, values=values))

    def _element(self, array: Formula, name: str, at: Formula) -> Formula:
        if z3.is_int_value(at):
            return z3.Select(array, self._spot(name, at))
        # The choice stands outside, so that `array[at]` can trigger what is known for all `at`.
        back = z3.Select(array, self.lengths[name] + at)
        return z3.If(at >= 0, z3.Select(array, at), back)

    def _spot(self, name: str, at: Formula) -> Formula:
        """Where an element stands, counted from the start."""
        if z3.is_int_value(at):
            return at if at.as_long() >= 0 else self.lengths[name] + at
        return z3.If(at >= 0, at, self.lengths[name] + at)

    def _in_bounds(self, name: str, at: Formula, facts: Facts, line: int) -> None:
        length = self.lengths[name]
        self._check(line, f"index of {name}", facts, z3.And(-length <= at, at < length))

    # Small things

    def _unknown(self, name: str, kind: str) -> Formula:
        self.fresh += 1
        return self._symbol(f"{name} {self.fresh}", kind)

    def _symbol(self, name: str, kind: str) -> Formula:
        if kind == "list":
            return z3.Array(name, z3.IntSort(self.context), z3.IntSort(self.context))
        return z3.Bool(name, self.context) if kind == "bool" else z3.Int(name, self.context)

    def _check(self, line: int, what: str, facts: Facts, goal: Formula) -> None:
        self.found.append(Condition(line, what, facts, goal))

    def _yes(self) -> Formula:
        return z3.BoolVal(True, self.context)

    def _no(self) -> Formula:
        return z3.BoolVal(False, self.context)

    def _with(self, state: State, name: str, value: Formula) -> State:
        return replace(state, values={**state.values, name: value})

    def _knowing(self, state: State, fact: Formula) -> State:
        return replace(state, facts=(*state.facts, fact))


def _kind(value: Formula) -> str:
    return "bool" if z3.is_bool(value) else "int"


def _binary(op: str, left: Formula, right: Formula) -> Formula:
    match op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return _divided(left, right)
        case "%":
            return _remainder(left, right)
        case "==" | "<->":
            return left == right
        case "!=":
            return left != right
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right
        case "and":
            return z3.And(left, right)
        case "or":
            return z3.Or(left, right)
    return z3.Implies(left, right)


def _divided(left: Formula, right: Formula) -> Formula:
    """Rounds down; z3's own quotient leaves a remainder that is never negative."""
    quotient = left / right
    if z3.is_int_value(right) and right.as_long() > 0:
        return quotient
    return z3.If(z3.And(right < 0, left % right != 0), quotient - 1, quotient)


def _remainder(left: Formula, right: Formula) -> Formula:
    """Has the sign of the divisor."""
    remainder = left % right
    if z3.is_int_value(right) and right.as_long() > 0:
        return remainder
    return z3.If(z3.And(right < 0, remainder != 0), remainder + right, remainder)


def _assigned(body: Sequence[Statement]) -> set[str]:
    """The names that a block may assign."""
    found: set[str] = set()
    for statement in body:
        match statement:
            case Assign(name=name) | Store(name=name):
                found.add(name)
            case If(yes=yes, no=no):
                found |= _assigned(yes) | _assigned(no)
            case While(body=inner):
                found |= _assigned(inner)
    return found
