"""Taking the bodies of functions out of Python text, and putting others in their place.

`masked("def f(x):\\n    return x\\n", ["f"])` -> the text with `raise NotImplementedError` as body.
The syntax tree says where a body begins and ends, so decorators, nested functions, tabs and CRLF
stay to the letter. `spliced` takes nothing but bodies from a text that somebody else wrote.
"""

from __future__ import annotations

import ast
import copy
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STUB = "raise NotImplementedError"
LONGEST = 8_000  # characters of a function that an agent's tool can write at once
Node = ast.FunctionDef | ast.AsyncFunctionDef
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(frozen=True)
class Function:
    """A function of a text. `name` is qualified as Python does; `f#2` is the second `f`.

    `line`: of its first decorator or of `def`, as its code object has it. `span`: the characters
    from there to the end of the body; `region`: those of the body alone, from the line end behind
    header and docstring.
    """

    name: str
    line: int
    doc: str
    span: tuple[int, int]
    region: tuple[int, int]
    indent: str
    node: Node

    @property
    def body(self) -> list[ast.stmt]:
        """Its statements, the docstring left out."""
        return _body(self.node)

    @property
    def hollow(self) -> bool:
        """Whether there is nothing to take out: `pass`, `...` or a stub already."""
        return all(map(_is_nothing, self.body))


def decoded(data: bytes) -> tuple[str, str]:
    """The text of a Python file, line ends as they are, and its encoding.

    Raises SyntaxError or UnicodeDecodeError.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return data.decode(encoding), encoding


def functions(text: str) -> dict[str, Function]:
    """Every function by name, in the order of the text; those that cannot be cut out are left out.

    Raises SyntaxError or ValueError where it is no Python.
    """
    places = _Places(text)
    found = {}
    for name, node in _nodes(ast.parse(text)):
        function = places.function(name, node)
        if function is not None:
            found[name] = function
    return found


def masked(text: str, names: Sequence[str]) -> str:
    """`text` with the bodies of these functions replaced by a stub, docstrings kept.

    Raises KeyError for a function that is not there, ValueError where one lies within another.
    """
    known = functions(text)
    wanted = [known[name] for name in names]
    if any(inside(a, b) for a in wanted for b in wanted):
        raise ValueError("one function lies within another")
    out = _replaced(text, {f.name: f"{_newline(text)}{f.indent}{STUB}" for f in wanted}, known)
    if outside(out, names) != outside(text, names):
        raise ValueError("the text around the bodies would change")
    return out


def inside(a: Function, b: Function) -> bool:
    """Whether `a` stands within `b`, another function of the same text."""
    return a is not b and b.span[0] <= a.span[0] and a.span[1] <= b.span[1]


def spliced(given: str, submitted: str, names: Sequence[str]) -> str:
    """`given` with the bodies that these functions have in `submitted`, and nothing else of it.

    What else `submitted` changed does not count. Raises ValueError where it is no Python, lacks
    one of them or has it more often, or where its body cannot stand there.
    """
    here, there = functions(given), _read(submitted)
    blocks = {}
    for name in names:
        if name not in there or f"{_plain(name)}#{_count(here, name) + 1}" in there:
            raise ValueError(f"{name} is not there, or more than once")
        blocks[name] = _block(submitted, there[name], here[name].indent)
    out = _replaced(given, blocks, here)
    back = _read(out)
    if outside(out, names) != outside(given, names):
        raise ValueError("a body reaches beyond its function")
    if any(_dump(back[n].body) != _dump(there[n].body) for n in names):
        raise ValueError("a body cannot stand in its place")
    return out


def with_answer(given: str, name: str, answer: str) -> str:
    """`given` with the body of one function as an answer has it: a whole `def`, or its body alone.

    Raises ValueError where the answer is neither.
    """
    here = functions(given)
    simple = _plain(name).rpartition(".")[2]
    text = textwrap.dedent(answer).strip("\n") + "\n"
    try:
        defined = [f for f in functions(text).values() if f.node.name == simple]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        defined = []
    if not defined:
        text = "async def _():\n" + textwrap.indent(text, "    ")
        defined = list(_read(text).values())[:1]
    if not defined:
        raise ValueError("the answer is neither a function nor a body")
    return _replaced(given, {name: _block(text, defined[0], here[name].indent)}, here)


def outside(text: str, names: Sequence[str]) -> str:
    """The syntax tree of a text without the bodies of these functions, as text to compare."""
    tree = ast.parse(text)
    for name, node in _nodes(tree):
        if name in names:
            node.body = node.body[: len(node.body) - len(_body(node))]
    return ast.dump(tree)


def fingerprint(function: Function) -> str:
    """Equal for functions that do the same under other names of their own; "" for a tiny one.

    Docstrings, annotations, decorators and the names of local variables do not count.
    """
    body = [copy.deepcopy(s) for s in function.body]
    holder = ast.Module(body, [])
    args = function.node.args
    local = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    local += [a.arg for a in (args.vararg, args.kwarg) if a]
    nodes = list(ast.walk(holder))
    local += [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    numbers = {name: f"v{i}" for i, name in enumerate(dict.fromkeys(local))}
    for node in nodes:
        if isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = numbers.get(node.arg, node.arg), None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    telling = sum(isinstance(n, ast.expr | ast.stmt) for n in nodes)
    return ast.dump(holder) if telling >= 8 else ""


class _Places:
    """Where the nodes of a text stand, in characters: the tree counts bytes of lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = _LINE.findall(text)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def at(self, line: int, column: int) -> int:
        """The character at line (from 1) and column (from 0, in bytes of UTF-8)."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return self.starts[line - 1] + len(text.encode()[:column].decode(errors="replace"))

    def line_end(self, at: int) -> int:
        """Where the line that holds a character ends, before its line end."""
        found = re.compile(r"[\r\n]").search(self.text, at)
        return found.start() if found else len(self.text)

    def start_of(self, node: ast.stmt) -> tuple[int, int]:
        """Line, and its first character, of a statement with its decorators."""
        line = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return line, self.starts[line - 1]

    def function(self, name: str, node: Node) -> Function | None:
        """What a node is as a function; None where its body is not in lines of its own."""
        doc, body = ast.get_docstring(node, clean=False) or "", _body(node)
        colon = self._colon(node)
        if not body or colon < 0:
            return None
        line, begin = self.start_of(node)
        header_at = self.at(node.lineno, node.col_offset)
        outer = self.text[self.starts[node.lineno - 1] : header_at]
        anchor = colon + 1
        if len(body) < len(node.body):
            said = node.body[0]
            anchor = self.at(said.end_lineno or 0, said.end_col_offset or 0)
        first = self.at(body[0].lineno, body[0].col_offset)
        on_one_line = not re.search(r"[\r\n]", self.text[anchor:first])
        if outer.strip() or (on_one_line and doc):
            return None
        last = body[-1]
        end = self.line_end(self.at(last.end_lineno or 0, last.end_col_offset or 0))
        if on_one_line:
            start, indent = anchor, outer + ("\t" if "\t" in outer else "    ")
        else:
            begun = self.start_of(body[0])[1]
            start = self.line_end(anchor)
            indent = re.compile(r"[ \t\f]*").match(self.text, begun)[0]  # type: ignore[index]
            end = self._with_comments(end, outer)
        return Function(name, line, doc, (begin, end), (start, end), indent, node)

    def _colon(self, node: Node) -> int:
        """The colon behind a header: the first one behind all that stands in it, comments apart."""
        args = node.args
        parts: list[Any] = [*args.posonlyargs, *args.args, *args.kwonlyargs, *args.defaults]
        parts += [x for x in (args.vararg, args.kwarg, node.returns, *args.kw_defaults) if x]
        parts += getattr(node, "type_params", [])
        at = max(
            [self.at(node.lineno, node.col_offset)]
            + [self.at(p.end_lineno, p.end_col_offset) for p in parts]
        )
        for found in re.compile(r"#[^\r\n]*|:").finditer(self.text, at):
            if found[0] == ":":
                return found.start()
        return -1

    def _with_comments(self, end: int, outer: str) -> int:
        """The end of a body with the comments behind it that are indented as it is."""
        at, kept = end, end
        while found := re.compile(r"(?:\r\n|\r|\n)([ \t\f]*)([^\r\n]*)").match(self.text, at):
            at = found.end()
            if found[2].startswith("#") and len(found[1]) > len(outer):
                kept = at
            elif found[2]:
                break
        return kept


def _nodes(tree: ast.AST) -> Iterator[tuple[str, Node]]:
    """Name and node of every function, in the order of the text."""
    seen: dict[str, int] = {}

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Node]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Node):
                plain = prefix + child.name
                seen[plain] = seen.get(plain, 0) + 1
                yield plain if seen[plain] == 1 else f"{plain}#{seen[plain]}", child
                yield from walk(child, f"{plain}.<locals>.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
                yield from walk(child, prefix)

    return walk(tree, "")


def _body(node: Node) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def _is_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        return "NotImplemented" in ast.dump(statement.exc)
    plain = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return plain or isinstance(statement, ast.Pass)


def _read(text: str) -> dict[str, Function]:
    """`functions` of a text that anybody may have written. Raises ValueError alone."""
    try:
        return functions(text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no Python: {error}") from None


def _block(text: str, function: Function, indent: str) -> str:
    """A body to stand behind a header, indented so; it begins with a line end."""
    start, end = function.region
    raw = text[start:end]
    if raw.startswith(("\r", "\n")) and function.indent == indent:
        return raw
    try:
        plain = ast.unparse(ast.Module(function.body, []))
    except RecursionError:
        raise ValueError("it nests too deep") from None
    return "\n" + "\n".join(indent + line for line in plain.splitlines())


def _replaced(text: str, blocks: Mapping[str, str], known: Mapping[str, Function]) -> str:
    for function in sorted((known[n] for n in blocks), key=lambda f: -f.region[0]):
        start, end = function.region
        text = text[:start] + blocks[function.name] + text[end:]
    return text


def _dump(body: Sequence[ast.stmt]) -> str:
    return ast.dump(ast.Module(list(body), []))


def _newline(text: str) -> str:
    found = re.search(r"\r\n|\r|\n", text)
    return found[0] if found else "\n"


def _plain(name: str) -> str:
    return name.partition("#")[0]


def _count(known: Mapping[str, Function], name: str) -> int:
    return sum(_plain(other) == _plain(name) for other in known)
