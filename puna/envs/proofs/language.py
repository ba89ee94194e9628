"""The small language: one typed function over integers, truth values and lists of integers.

`parse(text)` reads micro-Python as Why3 has it: Python's own syntax, with the specification in
`#@` comments: `requires` and `ensures` below `def`, `invariant` and `variant` below `while`,
`assert` and `label` anywhere. What Python, Why3 and this reader could take differently is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from puna.envs.proofs import terms
from puna.envs.proofs.terms import LanguageError, Term
from puna.envs.proofs.types import OLD, Type, check, check_lists

LARGEST = 1 << 20  # bytes of a text


@dataclass(frozen=True, slots=True)
class Assign:
    """`name = value`."""

    line: int
    name: str
    value: Term


@dataclass(frozen=True, slots=True)
class Store:
    """`name[at] = value`."""

    line: int
    name: str
    at: Term
    value: Term


@dataclass(frozen=True, slots=True)
class If:
    """`if test: yes else: no`."""

    line: int
    test: Term
    yes: tuple[Statement, ...]
    no: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class While:
    """A loop; `variant` decreases lexicographically."""

    line: int
    test: Term
    invariants: tuple[tuple[int, Term], ...]
    variant: tuple[Term, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Assert:
    """`#@ assert term`: proved, and known from there on."""

    line: int
    term: Term


@dataclass(frozen=True, slots=True)
class Label:
    """`#@ label L`: `at(term, L)` is the term as it was here."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Return:
    """`return value`."""

    line: int
    value: Term


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    line: int
    kind: Literal["break", "continue"]


Statement = Assign | Store | If | While | Assert | Label | Return | Jump


@dataclass(frozen=True, slots=True)
class Function:
    """The function of a text; `result` is None where it only changes its lists."""

    name: str
    params: Mapping[str, Type]
    result: Type | None
    requires: tuple[tuple[int, Term], ...]
    ensures: tuple[tuple[int, Term], ...]
    body: tuple[Statement, ...]


SPEC, LOOP, STEP = ("requires", "ensures"), ("invariant", "variant"), ("assert", "label")
_NOTE = re.compile(r"( *)#@ *([a-z]+)(?: +(.*)|)\Z")
_CODE = re.compile(r"[ -!$-&(-:<-\[\]-~]*\Z")  # printable, without quotes, #, ; and backslash
_MARK = "_note"  # no name of a program begins so


def parse(text: str) -> Function:
    """The function that `text` holds. Raises LanguageError."""
    if len(text) > LARGEST:
        raise LanguageError(1, f"the text is longer than {LARGEST:,} characters")
    source, notes = _without_notes(text)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise LanguageError(line, f"not Python: {getattr(error, 'msg', error)}") from None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise LanguageError(1, "the text must be one function and nothing else")
    return _Reader(notes).function(tree.body[0])


def _without_notes(text: str) -> tuple[str, dict[int, tuple[str, str]]]:
    """Python source in which each `#@` line is a call of `_note`, and what they said, by line."""
    lines, notes = text.split("\n"), {}
    for number, line in enumerate(lines, 1):
        if match := _NOTE.match(line):
            indent, word, rest = match.groups()
            notes[number] = word, rest or ""
            lines[number - 1] = f"{indent}{_MARK}({number})"
            line = rest or ""
        code, mark, comment = line.partition("#")
        if mark and (comment[:1] in ("", "@") or not comment.isprintable()):
            raise LanguageError(number, "a comment is empty, odd, or a #@ that stands behind code")
        if not _CODE.match(code):
            raise LanguageError(number, "only printable ASCII without quotes, ; and \\ is allowed")
        if re.search(r"\b_|<-(?!>)", code):
            raise LanguageError(number, "names begin with a letter; write `a < -b` with a space")
        if any(code.count(a) != code.count(b) for a, b in ("()", "[]")):
            raise LanguageError(number, "brackets must close on the line that opens them")
    return "\n".join(lines), notes


class _Reader:
    """Turns Python's tree into ours, checking names and types on the way."""

    def __init__(self, notes: Mapping[int, tuple[str, str]]) -> None:
        self.notes = notes
        self.params: dict[str, Type] = {}
        self.result: Type | None = None

    def function(self, node: ast.FunctionDef) -> Function:
        args = node.args
        extra = (args.posonlyargs, args.kwonlyargs, args.defaults, args.kw_defaults)
        if any(extra) or args.vararg or args.kwarg or node.decorator_list:
            raise LanguageError(node.lineno, "only plain parameters are allowed")
        self._usable(node.name, node.lineno)
        for arg in args.args:
            self._usable(arg.arg, node.lineno)
            if arg.arg in self.params:
                raise LanguageError(node.lineno, f"two parameters are called {arg.arg}")
            self.params[arg.arg] = _type(arg.annotation, node.lineno)
        self.result = _type(node.returns, node.lineno) if node.returns else None
        if self.result == "list":
            raise LanguageError(node.lineno, "a function returns int or bool, or nothing")
        said, rest = self._notes(node.body, SPEC)
        after = {**self.params, OLD: "label", **({"result": self.result} if self.result else {})}
        requires = self._truths(said, "requires", self.params)
        ensures = self._truths(said, "ensures", after)
        body = self.block(rest, dict(self.params), loop=False, line=node.lineno)
        if self.result and not _returns(body):
            raise LanguageError(node.lineno, "every way through the function must end in a return")
        return Function(node.name, self.params, self.result, requires, ensures, body)

    def _notes(
        self, body: Sequence[ast.stmt], wanted: tuple[str, ...]
    ) -> tuple[list[tuple[int, str, str]], Sequence[ast.stmt]]:
        """The notes that lead a block, as (line, word, text), and the statements after them."""
        said: list[tuple[int, str, str]] = []
        for at, node in enumerate(body):
            line = _noted(node)
            if line is None or self.notes[line][0] not in wanted:
                return said, body[at:]
            said.append((line, *self.notes[line]))
        return said, ()

    def _truths(
        self, said: Sequence[tuple[int, str, str]], word: str, names: Mapping[str, Type]
    ) -> tuple[tuple[int, Term], ...]:
        return tuple((n, self._truth(text, n, names)) for n, w, text in said if w == word)

    def _truth(self, text: str, line: int, names: Mapping[str, Type]) -> Term:
        term = terms.read(text, line)
        check(term, "bool", {**names}, line, spec=True)
        return term

    def block(
        self, nodes: Sequence[ast.stmt], names: dict[str, Type], loop: bool, line: int
    ) -> tuple[Statement, ...]:
        """Statements; a name that is new in a block is known to the end of that block only."""
        if not nodes:
            raise LanguageError(line, "a block needs a statement")
        return tuple(self.statement(node, names, loop) for node in nodes)

    def statement(self, node: ast.stmt, names: dict[str, Type], loop: bool) -> Statement:
        line = node.lineno
        noted = _noted(node)
        if noted is not None:
            word, text = self.notes[noted]
            if word not in STEP:
                raise LanguageError(line, f"#@ {word} is not allowed here")
            if word == "label":
                return self._label(text.strip(), names, line)
            return Assert(line, self._truth(text, line, names))
        match node:
            case ast.Assign(targets=[target], value=value):
                return self._assign(target, self.value(value, line), names, line)
            case ast.AugAssign(target=target, op=op, value=value):
                now = self.value(target, line)
                changed = terms.Binary(_operator(op, line), now, self.value(value, line))
                if isinstance(target, ast.Name) and target.id not in names:
                    raise LanguageError(line, f"{target.id} has no value here")
                return self._assign(target, changed, names, line)
            case ast.Return(value=ast.expr() as value):
                if self.result is None:
                    raise LanguageError(line, "this function returns nothing")
                term = self.value(value, line)
                check(term, self.result, names, line)
                return Return(line, term)
            case ast.If(test=test, body=yes, orelse=no):
                condition = self._condition(test, names, line)
                first = self.block(yes, dict(names), loop, line)
                second = self.block(no, dict(names), loop, line) if no else ()
                return If(line, condition, first, second)
            case ast.While(test=test, body=body, orelse=[]):
                return self._while(test, body, names, line)
            case ast.Break() if loop:
                return Jump(line, "break")
            case ast.Continue() if loop:
                return Jump(line, "continue")
        raise LanguageError(line, f"this statement is not in the language ({_called(node)})")

    def _label(self, name: str, names: dict[str, Type], line: int) -> Label:
        if not terms.LABEL.match(name) or name in names:
            raise LanguageError(line, f"a label is a new name with a capital, not {name[:40]!r}")
        names[name] = "label"
        return Label(line, name)

    def _assign(
        self, target: ast.expr, value: Term, names: dict[str, Type], line: int
    ) -> Statement:
        match target:
            case ast.Name(id=name):
                self._usable(name, line)
                if names.get(name) == "list":
                    raise LanguageError(line, f"{name} is a list: only its elements are assigned")
                names[name] = check(value, names.get(name), names, line)
                return Assign(line, name, value)
            case ast.Subscript(value=ast.Name(id=name), slice=at):
                check_lists(name, names, line)
                place = self.value(at, line)
                check(place, "int", names, line)
                check(value, "int", names, line)
                return Store(line, name, place, value)
        raise LanguageError(line, "only a name or an element of a list can be assigned")

    def _while(
        self, test: ast.expr, body: Sequence[ast.stmt], names: dict[str, Type], line: int
    ) -> While:
        condition = self._condition(test, names, line)
        said, rest = self._notes(body, LOOP)
        invariants = self._truths(said, "invariant", names)
        variants = [(n, text) for n, word, text in said if word == "variant"]
        if len(variants) > 1:
            raise LanguageError(variants[1][0], "a loop has one variant")
        variant = tuple(t for n, text in variants for t in terms.read_list(text, n))
        for term in variant:
            check(term, "int", names, variants[0][0], spec=True)
        inner = self.block(rest, dict(names), loop=True, line=line)
        return While(line, condition, invariants, variant, inner)

    def _condition(self, test: ast.expr, names: Mapping[str, Type], line: int) -> Term:
        term = self.value(test, line)
        check(term, "bool", names, line)
        return term

    def value(self, node: ast.expr, line: int) -> Term:
        """A term of the program. Raises LanguageError."""
        match node:
            case ast.Constant(value=bool() as truth):
                return terms.Truth(truth)
            case ast.Constant(value=int() as number):
                width = (node.end_col_offset or 0) - node.col_offset
                if width != len(str(number)):  # 0x10, 1_000
                    raise LanguageError(line, "write numbers in plain decimal")
                return terms.number(str(number), line)
            case ast.Name(id=name):
                return terms.Name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return terms.Unary("-", self.value(operand, line))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return terms.Unary("not", self.value(operand, line))
            case ast.BinOp(left=left, op=op, right=right):
                first = self.value(left, line)
                return terms.Binary(_operator(op, line), first, self.value(right, line))
            case ast.BoolOp(op=op, values=values):
                word = "and" if isinstance(op, ast.And) else "or"
                term = self.value(values[-1], line)
                for other in reversed(values[:-1]):
                    term = terms.Binary(word, self.value(other, line), term)
                return term
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                first = self.value(left, line)
                return terms.Binary(_comparison(op, line), first, self.value(right, line))
            case ast.Compare():
                raise LanguageError(line, "a comparison has two sides: write `a < b and b < c`")
            case ast.IfExp(test=test, body=yes, orelse=no):
                chosen = self.value(test, line)
                return terms.Choice(chosen, self.value(yes, line), self.value(no, line))
            case ast.Subscript(value=ast.Name(id=name), slice=at):
                return terms.Index(name, self.value(at, line))
            case ast.Call(func=ast.Name(id="len"), args=[ast.Name(id=name)], keywords=[]):
                return terms.Length(name)
        raise LanguageError(line, f"this expression is not in the language ({_called(node)})")

    def _usable(self, name: str, line: int) -> None:
        if not terms.usable(name):
            raise LanguageError(line, f"{name!r} cannot be a name here")


def _noted(node: ast.stmt) -> int | None:
    """The line of the note that a statement stands for."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=int(line))])):
            return line if name == _MARK else None
    return None


def _type(annotation: ast.expr | None, line: int) -> Type:
    match annotation:
        case ast.Name(id="int"):
            return "int"
        case ast.Name(id="bool"):
            return "bool"
        case ast.Subscript(value=ast.Name(id="list"), slice=ast.Name(id="int")):
            return "list"
    raise LanguageError(line, "every parameter has a type: int, bool or list[int]")


def _operator(op: ast.operator, line: int) -> str:
    kinds = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}
    if type(op) not in kinds:
        raise LanguageError(line, f"this operator is not in the language ({_called(op)})")
    return kinds[type(op)]


def _comparison(op: ast.cmpop, line: int) -> str:
    kinds = {
        **{ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<"},
        **{ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="},
    }
    if type(op) not in kinds:
        raise LanguageError(line, f"this comparison is not in the language ({_called(op)})")
    return kinds[type(op)]


def _called(node: ast.AST) -> str:
    return type(node).__name__


def _returns(block: Sequence[Statement]) -> bool:
    """Whether the last statement of a block leaves the function on every way through it."""
    match block[-1] if block else None:
        case Return():
            return True
        case If(yes=yes, no=no):
            return _returns(yes) and _returns(no)
    return False
