"""Dafny and Verus: languages in which the body to write stands in braces.

The body is the last one behind an `ensures`; what stands after it must be handed in as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from puna.envs.proofs.dialect import Spec, SpecError, body_of, common_refusal, words


@dataclass(frozen=True)
class Braces:
    """A dialect by its words.

    `opening` matches the start of what can be written; `false` is a statement that is never
    proved; `signature` finds parameters and results; `say` returns a value of the result's name,
    `some` one of which nothing is known (empty: there is no such statement).
    """

    name: str
    suffix: str
    fence: str
    banned: tuple[str, ...]
    opening: str
    signature: re.Pattern[str]
    false: str
    say: str
    values: Mapping[str, tuple[str, ...]]
    some: str = ""

    def spec(self, name: str, text: str) -> Spec:
        """Up to the brace that opens the last body with an `ensures`. Raises SpecError."""
        blank = _blanked(text)
        bodies = list(self._bodies(blank))
        if not bodies:
            raise SpecError(
                f"no {self.opening.replace('|', ' or ')} with an `ensures` has a body in braces "
                "whose first brace begins or ends its line; write { } where it is to be written"
            )
        start, end = bodies[-1]
        body = blank[start + 1 : end]
        return Spec(name, self.name, text[:start], text[end + 1 :], text if body.strip() else "")

    def _bodies(self, blank: str) -> Iterator[tuple[int, int]]:
        """Of everything with an `ensures`, the first braces that are not a set within a line."""
        groups = [span for span in _groups(blank) if _opens_a_body(blank, span[0])]
        for word in re.finditer(rf"\b(?:{self.opening})\b", blank):
            span = next((g for g in groups if g[0] > word.start()), None)
            if span and "ensures" in blank[word.start() : span[0]]:
                yield span

    def refusal(self, spec: Spec, submission: str) -> str:
        """One group of braces, balanced whatever stands in comments, and no banned word."""
        body = body_of(spec, submission)
        if why := common_refusal(body, self.banned):
            return why
        assert body is not None
        blank = _blanked(body)
        if not blank.startswith("{") or not blank.endswith("}"):
            return "the body does not stand in braces"
        depth = 0
        for at, letter in enumerate(blank):
            depth += {"{": 1, "}": -1}.get(letter, 0)
            if depth <= 0 and at < len(blank) - 1:
                return "the body closes before its end"
        if depth:
            return "the body's braces do not close"
        return "" if blank[1:-1].strip() else "there is no body"

    def stubs(self, spec: Spec) -> Mapping[str, str]:
        """Constants, each parameter handed back, and nothing at all."""
        params, results = self._signature(spec)
        stubs = {}
        for result, kind in results.items():
            said = [*self.values.get(kind, ()), *(n for n, k in params.items() if k == kind)]
            for value in said if len(results) == 1 else ():
                line = self.say.format(name=result, value=value)
                stubs[f"returns {value}"] = spec.with_body(f"{{ {line} }}")
        return {"does nothing": spec.with_body("{ }"), **stubs}

    def contradiction(self, spec: Spec) -> str:
        """Asserts what is false; the result of Verus must still have a value."""
        _, results = self._signature(spec)
        value = ""
        if self.name == "verus" and results:
            kind = next(iter(results.values()))
            value = {"bool": "true"}.get(kind, "0")
        return spec.with_body(f"{{ {self.false} {value} }}")

    def anything(self, spec: Spec) -> str:
        """Gives any value to each result; nothing where the method may modify what it is given."""
        _, results = self._signature(spec)
        if not self.some or not results or "modifies" in spec.header:
            return ""
        return spec.with_body("{ " + " ".join(self.some.format(name=n) for n in results) + " }")

    def _signature(self, spec: Spec) -> tuple[dict[str, str], dict[str, str]]:
        found = list(self.signature.finditer(_blanked(spec.header)))
        if not found:
            return {}, {}
        return _named(found[-1].group(1)), _named(found[-1].group(2) or "")


def _opens_a_body(blank: str, brace: int) -> bool:
    line = blank[:brace].rpartition("\n")[2]
    rest = blank[brace + 1 :].partition("\n")[0]
    return not line.strip() or rest.strip() in ("", "}")


def _named(text: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in text.split(",") if ":" in part)
    return {name.strip(): kind.strip() for name, _, kind in pairs}


_HIDDEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|/\*.*\Z', re.S)


def _blanked(text: str) -> str:
    """The text with spaces for comments and strings; every place stays where it is."""
    return _HIDDEN.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def _groups(text: str) -> list[tuple[int, int]]:
    """Where braces open and close, in the order in which they open."""
    found, open_at = [], []
    for at, letter in enumerate(text):
        if letter == "{":
            open_at.append(at)
        elif letter == "}" and open_at:
            found.append((open_at.pop(), at))
    return sorted(found)


DAFNY = Braces(
    name="dafny",
    suffix=".dfy",
    fence="dafny",
    banned=(
        *words("assume axiom verify extern include import module class trait datatype codatatype"),
        *words("newtype type method lemma colemma function predicate iterator constructor static"),
        *words("const opened export expect requires ensures refines modify copredicate inductive"),
        r"\{:",
        r"decreases\s*\*",
        r"\.\.\.",
        r"/\*",  # comments that nest are read in different ways
        r"[\"'`\\@]",
    ),
    opening="method|lemma",
    signature=re.compile(r"\b(?:method|lemma)\s+\w+\s*\(([^)]*)\)\s*(?:returns\s*\(([^)]*)\))?"),
    false="assert 0 == 1;",
    say="{name} := {value};",
    values={"int": ("0", "1", "-1"), "nat": ("0", "1"), "bool": ("true", "false")},
    some="{name} := *;",
)

VERUS = Braces(
    name="verus",
    suffix=".rs",
    fence="rust",
    banned=(
        *words("assume admit axiom external_body external external_fn_specification verifier fn"),
        *words("assume_specification unimplemented todo panic unreachable unsafe include env mod"),
        *words("include_str include_bytes extern macro_rules impl trait struct enum type static"),
        *words("const use broadcast uninterp arbitrary spec open closed rlimit returns crate"),
        r"#\s*!?\s*\[",
        r"/\*",
        r"[\"'`\\@$]",
    ),
    opening="fn",
    signature=re.compile(r"\bfn\s+\w+\s*\(([^)]*)\)\s*(?:->\s*\(([^)]*)\))?"),
    false="assert(0int == 1int);",
    say="{value}",
    values={
        **{"bool": ("true", "false"), "i32": ("0", "1", "-1"), "i64": ("0", "1", "-1")},
        **dict.fromkeys(("u8", "u32", "u64", "usize", "int", "nat"), ("0", "1")),
    },
)
