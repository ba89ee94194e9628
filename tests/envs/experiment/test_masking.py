"""Bodies are taken out where the syntax tree says, and nothing but bodies comes back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.envs.experiment import masking
from puna.envs.experiment.masking import (
    STUB,
    decoded,
    fingerprint,
    functions,
    masked,
    outside,
    spliced,
    with_answer,
)

HARD = '''\
import functools, typing

@functools.cache
@functools.wraps(
    len)
def decorated(x: int,  # a comment: with a colon
              y=(lambda: 1), *, z: "a:b" = {1: 2}[1]) -> dict[int, int]:  # kept
\t"""Tabs."""
\t# a hint that goes
\ta = x
\treturn {a: y}  # another one
\t# and the last hint
# kept too

def one_line(x): return x + 1  # goes
class Holder:
    x = 1
    async def waits(self, n):
        """Kept."""

        async for i in n:
            yield i
    @property
    def value(self):
        return "é" + "ü"
    @value.setter
    def value(self, v):
        self.v = v
    @typing.overload
    def over(self): ...
    def over(self):
        def inner(z):
            return (
                z
            )
        class Deep:
            def deepest(self):
                pass; return 2
        return inner(2)
if True:
    def conditional():
        try:
            def tried(): return 1
        except ValueError: raise
else:
    def conditional():
        return """
text that is not indented
"""
def documented(): "on one line"; return 1
def only_documented():
    "nothing else"
def последняя(а):
    return а'''
NAMES = [
    "decorated", "one_line", "Holder.waits", "Holder.value", "Holder.value#2", "Holder.over",
    "Holder.over#2", "Holder.over.<locals>.inner",
    "Holder.over.<locals>.Deep.deepest", "conditional", "conditional.<locals>.tried",
    "conditional#2", "последняя",
]  # fmt: skip


def test_every_function_that_can_be_cut_out_is_found_under_pythons_own_name() -> None:
    found = functions(HARD)
    assert list(found) == NAMES
    codes = {}
    todo = [compile(HARD, "hard.py", "exec")]
    while todo:
        code = todo.pop()
        todo += [c for c in code.co_consts if hasattr(c, "co_qualname")]
        codes[code.co_firstlineno, code.co_qualname] = code
    for name, function in found.items():
        assert (function.line, name.partition("#")[0]) in codes, name
    assert {n for n, f in found.items() if f.hollow} == {"Holder.over"}


@pytest.mark.parametrize("name", list(functions(HARD)))
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_one_body_goes_and_all_else_stays_to_the_letter(name: str, ends: str) -> None:
    text = HARD.replace("\n", ends)
    function = functions(text)[name]
    out = masked(text, [name])
    start, end = function.region
    assert out.startswith(text[:start])
    assert out.endswith(text[end:])
    assert out[start : len(out) - len(text) + end].strip() == STUB
    assert outside(out, [name]) == outside(text, [name])
    assert functions(out)[name].doc == function.doc
    assert spliced(out, text, [name]).count(STUB) == 0
    assert ast.dump(ast.parse(spliced(out, text, [name]))) == ast.dump(ast.parse(text))
    assert ast.dump(ast.parse(out)) != ast.dump(ast.parse(text)) or function.hollow


def test_hints_in_comments_go_with_the_body() -> None:
    out = masked(HARD, ["decorated", "one_line"])
    assert "hint" not in out
    assert "another" not in out
    assert "# goes" not in out
    assert "# kept\n" in out
    assert "\n# kept too" in out
    assert '\t"""Tabs."""\n\traise NotImplementedError\n# kept too' in out


def test_a_masked_function_raises_when_it_is_called() -> None:
    space: dict[str, object] = {}
    exec(masked("def f(x):\n    return x\ndef g(x): return x\n", ["f", "g"]), space)
    for name in ("f", "g"):
        with pytest.raises(NotImplementedError):
            space[name](1)  # type: ignore[operator]


def test_what_cannot_be_cut_out_is_left_out() -> None:
    assert "documented" not in functions(HARD)
    assert "only_documented" not in functions(HARD)
    with pytest.raises(KeyError):
        masked(HARD, ["nobody"])
    with pytest.raises(ValueError, match="within another"):
        masked(HARD, ["Holder.over#2", "Holder.over.<locals>.inner"])


def test_several_of_one_file_go_at_once() -> None:
    names = ["decorated", "Holder.value", "Holder.value#2", "последняя"]
    out = masked(HARD, names)
    assert out.count(STUB) == 4
    assert ast.dump(ast.parse(spliced(out, HARD, names))) == ast.dump(ast.parse(HARD))


GIVEN = masked(
    "import math\nLIMIT = 3\ndef f(x):\n    return x + 1\ndef g(x):\n    return 2\n", ["f"]
)
RIGHT = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    ("submitted", "wanted"),
    [
        (RIGHT, GIVEN.replace(STUB, "return x + 1")),
        ("LIMIT = 9\nprint('hello')\n" + RIGHT, GIVEN.replace(STUB, "return x + 1")),
        (RIGHT + "def g(x):\n    return 7\n", GIVEN.replace(STUB, "return x + 1")),
        ("def f(x=5, *more) -> int:\n    'Doc.'\n    return x + 1\n", None),
        ("@print\ndef f(x):\n    return x + 1\n", None),
        ("def f(x): return x + 1\n", None),
        ("def f(x):\n\treturn x + 1\n", None),
        ("def f(x):\n  return x + 1\n", None),
        ("def f(x):\r\n    return x + 1\r\n", None),
    ],
)
def test_of_a_submission_only_the_body_counts(submitted: str, wanted: str | None) -> None:
    made = spliced(GIVEN, submitted, ["f"])
    assert ast.dump(ast.parse(made)) == ast.dump(ast.parse(GIVEN.replace(STUB, "return x + 1")))
    if wanted is not None:
        assert made == wanted


@pytest.mark.parametrize(
    "submitted",
    [
        "",
        "def f(x:\n",
        "def h(x):\n    return x + 1\n",
        "f = lambda x: x + 1\n",
        "class f:\n    pass\n",
        RIGHT + RIGHT,
        "def f(x):\n    'only words'\n",
        "\0",
        "def f(x):\n    return " + "(" * 5_000 + ")" * 5_000 + "\n",
        "def f(x):\n" + "".join(" " * (i + 1) + "if x:\n" for i in range(99)) + " " * 100 + "x",
    ],
)
def test_a_submission_without_the_function_is_refused_in_words(submitted: str) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        spliced(GIVEN, submitted, ["f"])


@pytest.mark.parametrize(
    "body", ["    x = 1", "    x = (1,\n2)", "    '''a\nb'''\n    x = '''\n c'''"]
)
def test_text_that_is_not_indented_stays_as_it_is(body: str) -> None:
    made = spliced(masked("def f(x):\n\treturn 1\n", ["f"]), f"def f(x):\n{body}\n", ["f"])
    one, two = (functions(t)["f"].body for t in (made, f"def f(x):\n{body}\n"))
    assert [ast.dump(s) for s in one] == [ast.dump(s) for s in two]


@pytest.mark.parametrize(
    "answer",
    [
        "def f(x):\n    return x + 1\n",
        "    def f(self, x):\n        return x + 1\n",
        "return x + 1",
        "    return x + 1\n",
        "import os\n\ndef other(x):\n    return 3\n\ndef f(x):\n    return x + 1",
        "class Any:\n    def f(x): return x + 1\n",
    ],
)
def test_an_answer_is_a_function_or_its_body(answer: str) -> None:
    assert with_answer(GIVEN, "f", answer).replace("\n    return x + 1", "") == GIVEN.replace(
        f"\n    {STUB}", ""
    )


@pytest.mark.parametrize("answer", ["", "I cannot.", "def f(x):", "return x +"])
def test_an_answer_that_is_neither_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match=r"no Python|neither"):
        with_answer(GIVEN, "f", answer)


def test_copies_are_known_by_what_they_do() -> None:
    def prints(text: str) -> list[str]:
        return [fingerprint(f) for f in functions(text).values()]

    mean = "def mean(values):\n    total = sum(values)\n    return total / len(values)\n"
    same = "def average(xs: list) -> float:\n    'Doc.'\n    t = sum(xs)\n    return t / len(xs)\n"
    other = mean.replace("/", "*")
    third = mean.replace("sum", "max")
    assert prints(mean) == prints(same) != [""]
    assert prints(mean) != prints(other)
    assert prints(mean) != prints(third)
    assert prints("def f(self):\n    return self.x\n") == [""]


def test_encodings() -> None:
    data = "# -*- coding: latin-1 -*-\ndef f():\n    return 'é'\n".encode("latin-1")
    text, encoding = decoded(data)
    assert "é" in text
    assert text.encode(encoding) == data
    marked = b"\xef\xbb\xbfdef f():\n    return 1\n"
    text, encoding = decoded(marked)
    assert masked(text, ["f"]).encode(encoding).startswith(b"\xef\xbb\xbfdef f")
    with pytest.raises((SyntaxError, UnicodeDecodeError)):
        decoded(b"def f(): return '\xff'\n")


@settings(max_examples=200)
@given(st.text(alphabet="def f(x):\n\t return1+#'\"\\;,@\r", max_size=80))
def test_any_text_is_spliced_or_refused(text: str) -> None:
    for submitted in (text, f"def f(x):\n    {text}\n"):
        try:
            made = spliced(GIVEN, submitted, ["f"])
        except ValueError:
            continue
        assert outside(made, ["f"]) == outside(GIVEN, ["f"])


def test_the_library_itself_can_be_cut_to_pieces() -> None:
    text = Path(masking.__file__).read_text()
    for name in functions(text):
        assert ast.dump(ast.parse(spliced(masked(text, [name]), text, [name]))) == ast.dump(
            ast.parse(text)
        )
