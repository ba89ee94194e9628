"""Micro-Python, as Why3 reads it: the body of the last `def` is to be written."""

from __future__ import annotations

import re
from collections.abc import Mapping

from puna.envs.proofs.dialect import Spec, SpecError, body_of, common_refusal, words

_DEF = re.compile(r"def +\w+ *\((.*)\) *(?:-> *(\w+))? *:\s*\Z")
_SPEC = re.compile(r" +#@ *(requires|ensures|variant)\b")
_NOTE = re.compile(r"\n *#@ *(\w*)")
_ALLOWED = ("invariant", "variant", "assert", "label")
BANNED = (
    *words("def class lambda import from global exec eval assume requires ensures function"),
    *words("predicate axiom lemma check print input randint"),
    r"['\";\\]",
    r"[^\s][^\n]*#@",  # an annotation behind code
)


class MicroPython:
    """Files with `#@` comments that Why3 proves, many of them the in-process prover too."""

    name = "micro-python"
    suffix = ".py"
    fence = "python"

    def spec(self, name: str, text: str) -> Spec:
        """Up to the last `#@ requires` or `ensures` below the last `def`. Raises SpecError."""
        lines = text.splitlines(keepends=True)
        starts = [i for i, line in enumerate(lines) if line.startswith("def ")]
        if not starts:
            raise SpecError("no line starts with `def`")
        if not _DEF.match(lines[starts[-1]]):
            raise SpecError("the last `def` is not `def name(a: type, ...) -> type:` on one line")
        end, promised = starts[-1] + 1, False
        for i in range(starts[-1] + 1, len(lines)):
            if match := _SPEC.match(lines[i]):
                end, promised = i + 1, promised or match.group(1) == "ensures"
            elif lines[i].strip() and not re.match(r" *#(?!@)", lines[i]):
                break
        if not promised:
            raise SpecError("nothing is promised: no `#@ ensures` below the last `def`")
        header, body = "".join(lines[:end]), "".join(lines[end:])
        if not header.endswith("\n"):
            header += "\n"
        return Spec(name, self.name, header, reference=header + body if body.strip() else "")

    def refusal(self, spec: Spec, submission: str) -> str:
        """Only indented lines, and of annotations only those that are proved themselves."""
        body = body_of(spec, submission)
        if why := common_refusal(body, BANNED):
            return why
        assert body is not None
        if not body.strip():
            return "there is no body"
        for line in body.split("\n"):
            if line.strip() and not line.startswith(" "):
                return f"{line[:40]!r} stands outside the function"
        for word in _NOTE.findall("\n" + body):
            if word not in _ALLOWED:
                return f"#@ {word} is not allowed in the body"
        return ""

    def stubs(self, spec: Spec) -> Mapping[str, str]:
        """Constants, and each parameter handed back; of a result without a type, all of them."""
        params, result = _signature(spec)
        values = {"int": ("0", "1", "-1"), "bool": ("True", "False")}
        if not result and re.search(r"\bresult\b", spec.header):
            said = (*values["int"], *values["bool"], *params)
        else:
            said = values.get(result, ())
            said += tuple(n for n, kind in params.items() if result and kind in (result, ""))
        if result == "int":
            said += tuple(f"len({n})" for n, kind in params.items() if kind.startswith("list"))
        stubs = {f"returns {v}": spec.with_body(f"    return {v}\n") for v in said}
        return stubs if result else {"does nothing": spec.with_body("    done = 0\n"), **stubs}

    def contradiction(self, spec: Spec) -> str:
        """Asserts what is false."""
        _, result = _signature(spec)
        value = {"int": "0", "bool": "True"}.get(result)
        end = f"    return {value}\n" if value else "    done = 0\n"
        return spec.with_body(f"    #@ assert 0 == 1\n{end}")

    def anything(self, spec: Spec) -> str:
        """Returns one more parameter, having stored it in places of the lists that nobody knows."""
        params, result = _signature(spec)
        if result not in ("int", "bool", ""):
            return ""
        new = [f"any{n}" for n in range(3) if not re.search(rf"\bany{n}\b", spec.header)]
        if len(new) < 3:
            return ""
        given = f"{new[0]}: int, {new[1]}: {result or 'int'}"
        lines = spec.header.splitlines(keepends=True)
        at = max(i for i, line in enumerate(lines) if line.startswith("def "))
        head, _, rest = lines[at].partition("(")
        lines[at] = f"{head}({given}{', ' if params else ''}{rest}"
        body = ""
        for name in (n for n, kind in params.items() if kind == "list[int]"):
            body += (
                f"    {new[2]} = 0\n    while {new[2]} < len({name}):\n"
                f"        #@ invariant {new[2]} >= 0\n        #@ variant len({name}) - {new[2]}\n"
                f"        {name}[{new[2]}] = {new[0]}\n        {new[2]} = {new[2]} + 1\n"
            )
        end = f"    return {new[1]}\n" if result else "    done = 0\n"
        return "".join(lines) + body + end


def _signature(spec: Spec) -> tuple[dict[str, str], str]:
    """The types of the parameters by name, and of the result; empty where none is stated."""
    line = next(x for x in reversed(spec.header.splitlines()) if x.startswith("def "))
    match = _DEF.match(line)
    assert match
    params = {}
    for param in filter(None, (p.strip() for p in match.group(1).split(","))):
        name, _, kind = param.partition(":")
        params[name.strip()] = kind.strip()
    return params, match.group(2) or ""
