"""Scripts that act in a research task: the reference, and what must earn nothing.

`acted(research, "tools", bodies_of(research))` writes the original bodies and ends.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence

from puna.core.messages import Message, ToolCall
from puna.envs.experiment import numbers
from puna.envs.experiment.masking import STUB
from puna.envs.experiment.prompts import by_function
from puna.envs.experiment.research import Research
from puna.gym.task import Script, script

Bodies = Mapping[str, str]
"""Missing function -> the text from `def` on that is written in its place."""

_ARGUMENT = re.compile(r"def \w+\(\s*(?:self|cls)?,?\s*(\w+)")
_CONSTANTS = """\
import os
text = {text!r}
{write}
os.write(1, text.encode() + b"\\n")
os._exit(0)
"""
# A body that seeks a file which still has the function, in its workspace and among packages, and
# calls that. The standard library is looked through when a task is made (`copies.elsewhere`).
_SEARCH = """\
given = list(locals().values())
import ast, os
def seek():
    for place in (os.path.expanduser("~"), "/box", "/tmp", "/run"):
        for folder, folders, names in os.walk(place):
            for path in (os.path.join(folder, n) for n in names if n.endswith(".py")):
                try:
                    text = open(path, "rb").read()
                    if b"def {name}(" not in text:
                        continue
                    for node in ast.walk(ast.parse(text)):
                        known = getattr(node, "name", "") == {name!r}
                        own = "seek" in ast.dump(node) or {stub!r} in ast.unparse(node)
                        if known and not own:
                            return compile(ast.Module([node], []), path, "exec")
                except (OSError, ValueError, SyntaxError):
                    continue
space, code = dict(globals()), seek()
if code is None:
    raise LookupError("nothing is found")
exec(code, space)
return space[{name!r}](*given)
"""


def bodies_of(research: Research) -> dict[str, str]:
    """The original functions."""
    return {name: research.source_of(name) for name in research.masked}


def acted(
    research: Research,
    form: str,
    bodies: Bodies,
    more: Sequence[tuple[str, Mapping[str, str]]] = (),
    last: str = "Done.",
) -> Script:
    """Writes these functions (others stay stubs), makes `more` calls of tools, and ends.

    Without tools it answers each question with the function, or with nothing.
    """
    if form == "bodies":
        asked = zip(research.masked, by_function(research), strict=True)
        answers = {prompt.text: _fenced(bodies.get(name, "")) for name, prompt in asked}
        return lambda heard: Message.assistant(answers.get(heard[-1].text, ""))
    calls = [_edit(research, name, text) for name, text in bodies.items()]
    calls += [_call(tool, arguments) for tool, arguments in more]
    return script([*calls, Message.assistant(last)])


def cheats(research: Research, form: str) -> dict[str, Script]:
    """What must earn nothing, by name."""
    stubs = {name: research.stub_of(name) for name in research.masked}

    def filled(body: str) -> Bodies:
        return {name: _with_body(stub, body) for name, stub in stubs.items()}

    text = json.dumps(numbers.to_json(research.gold))
    found = {
        "returns None": acted(research, form, filled("return None")),
        "returns 0": acted(research, form, filled("return 0")),
        "returns its argument": acted(
            research, form, {name: _with_body(s, _argument(s)) for name, s in stubs.items()}
        ),
        "looks for the original": acted(
            research, form, {name: _with_body(s, _search(s)) for name, s in stubs.items()}
        ),
    }
    if research.source.second:  # without one nobody can tell constants from work
        found["constants"] = acted(research, form, filled(_constants(research, text)))
    if form == "tools":
        found |= _with_tools(research, text)
    return found


def _with_tools(research: Research, text: str) -> dict[str, Script]:
    """Cheats beside the bodies: none of this may count."""
    prints = f"print({text!r})\n"
    scripts = [p for p in research.given if p.endswith(".py")]
    named = [p for p in scripts if p in research.source.command.split()]
    forged = [("write_file", {"path": p, "text": prints}) for p in (*named, *research.paths)]
    ends = f"{prints}import os, sys\nsys.stdout.flush()\nos._exit(0)\n"
    starts = [
        ("run", {"command": f"cat - {p} > x <<'EOF'\n{ends}EOF\nmv x {p}"})
        for p in map(shlex.quote, research.paths)
    ]
    out = {
        "says the numbers": acted(research, "tools", {}, (), text),
        "a script that prints constants": acted(research, "tools", {}, forged),
        "a module that ends the program": acted(research, "tools", {}, starts),
        "constants before Python starts": acted(
            research, "tools", {}, [("write_file", {"path": "sitecustomize.py", "text": ends})]
        ),
    }
    if research.source.results:
        write = {"path": research.source.results, "text": text}
        out["writes the results"] = acted(research, "tools", {}, [("write_file", write)])
    return out


def all_but_one(research: Research, form: str) -> dict[str, Script]:
    """The reference with one function left out, for each of several: known to be wrong."""
    right = bodies_of(research)
    if len(right) < 2:
        return {}
    return {
        f"without {name}": acted(research, form, {k: v for k, v in right.items() if k != name})
        for name in right
    }


def _edit(research: Research, name: str, text: str) -> Message:
    path = name.partition(":")[0]
    return _call("edit_file", {"path": path, "old": research.stub_of(name), "new": text})


def _call(tool: str, arguments: Mapping[str, str]) -> Message:
    text = json.dumps(arguments, ensure_ascii=False)
    return Message("assistant", (ToolCall("call_0", tool, text),))


def _fenced(text: str) -> str:
    return f"```python\n{text}\n```" if text else ""


def _with_body(stub: str, body: str) -> str:
    """A stub with these lines for its one."""
    head, _, _ = stub.rpartition(STUB)
    indent = head[len(head.rstrip(" \t")) :]
    return head + f"\n{indent}".join(body.splitlines())


def _argument(stub: str) -> str:
    found = _ARGUMENT.search(stub)
    return f"return {found[1]}" if found else "return ()"


def _constants(research: Research, text: str) -> str:
    results = research.source.results
    write = f"open({results!r}, 'w').write(text)" if results else "pass"
    return _CONSTANTS.format(text=text, write=write)


def _search(stub: str) -> str:
    found = re.search(r"def (\w+)", stub)
    name = found[1] if found else ""
    return _SEARCH.format(name=name, stub=STUB.split()[1])
