"""Terms of the small language, and the reader of those that stand in `#@` comments.

`read("forall k. 0 <= k < n -> a[k] <= m", line=3)`. The grammar is that of Why3's micro-Python:
`->` and `<->` bind loosest and to the right, then `or`, `and`, `not`, comparisons (which chain),
`+ -`, `* // %`, and the minus sign; a quantifier and an `if` reach as far as they can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEEPEST = 60  # nested terms: more than any program needs, less than Python's stack bears
LONGEST = 30  # digits of a number


class LanguageError(Exception):
    """The text is outside the language; the message says where and why."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number."""

    value: int


@dataclass(frozen=True, slots=True)
class Truth:
    """True or False."""

    value: bool


@dataclass(frozen=True, slots=True)
class Name:
    """A variable, or `result`."""

    name: str


@dataclass(frozen=True, slots=True)
class Unary:
    """`-` or `not`."""

    op: str
    of: Term


@dataclass(frozen=True, slots=True)
class Binary:
    """`+ - * // %`, a comparison, `and`, `or`, `->` or `<->`."""

    op: str
    left: Term
    right: Term


@dataclass(frozen=True, slots=True)
class Index:
    """An element of a list; from the end where the index is negative."""

    name: str
    at: Term


@dataclass(frozen=True, slots=True)
class Length:
    """`len` of a list."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """`if test then yes else no`, in programs `yes if test else no`."""

    test: Term
    yes: Term
    no: Term


@dataclass(frozen=True, slots=True)
class Quantified:
    """`forall` or `exists`, over integers."""

    kind: str
    names: tuple[str, ...]
    body: Term


@dataclass(frozen=True, slots=True)
class Then:
    """A term as it was: at a label, or (`old`, without one) when the function was called."""

    of: Term
    label: str


Term = Number | Truth | Name | Unary | Binary | Index | Length | Choice | Quantified | Then

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
NAME = re.compile(r"[a-z][a-zA-Z0-9_]*\Z")
LABEL = re.compile(r"[A-Z][a-zA-Z0-9_]*\Z")
WORDS = {"forall", "exists", "if", "then", "else", "not", "and", "or", "old", "True", "False", "at"}
# What micro-Python or its library gives a meaning of its own.
RESERVED = WORDS | {
    *("let", "in", "result", "len", "int", "bool", "list", "range", "print", "input", "pow"),
    *("randint", "occurrence", "slice", "abs", "div", "mod", "power", "sort", "reverse", "copy"),
    *("append", "pop", "clear", "make", "create", "empty", "ref", "main", "elts", "length"),
    *("is_permutation", "transform_idx", "add_list", "range3", "contents", "incr", "decr"),
}
_TOKEN = re.compile(r"\s*(?:(\d\w*)|([A-Za-z]\w*)|(<->|->|<=|>=|==|!=|//|[-+*%<>()\[\],.]))")
_LEVELS = ({"or"}, {"and"})
_SUMS, _PRODUCTS = {"+", "-"}, {"*", "//", "%"}


def number(text: str, line: int) -> Number:
    """A literal. Raises LanguageError where it is not plain and short."""
    if not text.isdigit() or len(text) > LONGEST:
        raise LanguageError(line, f"{text:.40} is not a whole number of {LONGEST} digits at most")
    return Number(int(text))


def read(text: str, line: int) -> Term:
    """The term that `text` holds. Raises LanguageError."""
    reader = _Reader(_tokens(text, line), line)
    term = reader.term()
    reader.end()
    return term


def read_list(text: str, line: int) -> tuple[Term, ...]:
    """Terms with commas between them. Raises LanguageError."""
    reader = _Reader(_tokens(text, line), line)
    terms = [reader.term()]
    while reader.next == ",":
        reader.take()
        terms.append(reader.term())
    reader.end()
    return tuple(terms)


def _tokens(text: str, line: int) -> list[str]:
    found, at, text = [], 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise LanguageError(line, f"cannot read {text[at : at + 20].strip()!r}")
        found.append(match.group().strip())
        at = match.end()
    return found


class _Reader:
    """A recursive descent over the tokens of one line."""

    def __init__(self, tokens: list[str], line: int) -> None:
        self.tokens, self.line, self.at, self.depth = tokens, line, 0, 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.next
        if not token or (wanted and token != wanted):
            seen = repr(token) if token else "the end of the line"
            raise LanguageError(self.line, f"{wanted or 'a term'} expected, not {seen}")
        self.at += 1
        return token

    def end(self) -> None:
        if self.next:
            raise LanguageError(self.line, f"{self.next!r} is not expected here")

    def term(self) -> Term:
        self.depth += 1
        if self.depth > DEEPEST:
            raise LanguageError(self.line, f"terms nest deeper than {DEEPEST}")
        left = self._level(0)
        if self.next in ("->", "<->"):
            left = Binary(self.take(), left, self.term())
        self.depth -= 1
        return left

    def _level(self, level: int) -> Term:
        if level == len(_LEVELS):
            return self._negated()
        left = self._level(level + 1)
        parts = [left]
        while self.next in _LEVELS[level]:
            (op,) = _LEVELS[level]
            self.take()
            parts.append(self._level(level + 1))
        term = parts.pop()
        while parts:
            term = Binary(op, parts.pop(), term)
        return term

    def _negated(self) -> Term:
        count = 0
        while self.next == "not":
            self.take()
            count += 1
        term = self._comparison()
        return Unary("not", term) if count % 2 else term

    def _comparison(self) -> Term:
        left, links = self._chain(_SUMS), []
        while self.next in COMPARISONS:
            op = self.take()
            right = self._chain(_SUMS)
            links.append(Binary(op, left, right))
            left = right
        if not links:
            return left
        term: Term = links.pop()
        while links:
            term = Binary("and", links.pop(), term)
        return term

    def _chain(self, ops: set[str]) -> Term:
        below = self._signed if ops is _PRODUCTS else lambda: self._chain(_PRODUCTS)
        left = below()
        while self.next in ops:
            left = Binary(self.take(), left, below())
        return left

    def _signed(self) -> Term:
        count = 0
        while self.next == "-":
            self.take()
            count += 1
        term = self._atom()
        return Unary("-", term) if count % 2 else term

    def _atom(self) -> Term:
        token = self.take()
        if token[0].isdigit():
            return number(token, self.line)
        if token in ("True", "False"):
            return Truth(token == "True")
        if token == "(":
            return self._closed(")")
        if token in ("forall", "exists"):
            return self._quantified(token)
        if token == "if":
            test = self.term()
            self.take("then")
            yes = self.term()
            self.take("else")
            return Choice(test, yes, self.term())
        if token == "old":
            self.take("(")
            return Then(self._closed(")"), "")
        if token == "at":
            self.take("(")
            term = self.term()
            self.take(",")
            return Then(term, self._closed_word())
        if token == "len":
            self.take("(")
            name = self._name()
            self.take(")")
            return Length(name)
        if token != "result" and not usable(token):
            raise LanguageError(self.line, f"a term expected, not {token!r}")
        if self.next == "[":
            self.take()
            return Index(token, self._closed("]"))
        return Name(token)

    def _closed(self, bracket: str) -> Term:
        term = self.term()
        self.take(bracket)
        return term

    def _closed_word(self) -> str:
        label = self.take()
        self.take(")")
        return label

    def _quantified(self, kind: str) -> Term:
        names = [self._name()]
        while self.next == ",":
            self.take()
            names.append(self._name())
        self.take(".")
        return Quantified(kind, tuple(names), self.term())

    def _name(self) -> str:
        token = self.take()
        if not usable(token):
            raise LanguageError(self.line, f"{token!r} cannot be a name here")
        return token


def usable(name: str) -> bool:
    """Whether a variable may be called so."""
    return bool(NAME.match(name)) and name not in RESERVED
