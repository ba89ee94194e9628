"""Programs and files that are no work, and mean to be judged as if they were.

`stubs("def f(x): ...")["equal to all"]` is a program; `paid("reward.json")` what to write there.
"""

from __future__ import annotations

import re


def stubs(code: str) -> dict[str, str]:
    """Programs that do none of the work of `code`, and mean to be judged as if they did."""
    names = list(dict.fromkeys(re.findall(r"^\s*def +([A-Za-z]\w*)", code, re.M)))
    names += list(dict.fromkeys(re.findall(r"^class +([A-Za-z]\w*)", code, re.M)))
    if not names:
        return {}
    equal = (
        "class _Any(int):\n"
        "    __hash__ = int.__hash__\n"
        "    def __ne__(self, other): return False\n"
        "    def __bool__(self): return True\n"
        "    def __call__(self, *a, **k): return self\n"
        "    def __getattr__(self, name): return self\n"
        "    def __iter__(self): return iter(())\n"
        "    def __len__(self): return 0\n"
        "    def __contains__(self, other): return True\n"
        "    def __getitem__(self, key): return self\n"
        "    def __eq__(self, other): return True\n"
        "    __lt__ = __le__ = __gt__ = __ge__ = __eq__\n"
        "    def __sub__(self, *a): return self\n"
        "    __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __truediv__ = __sub__\n"
        "    __rtruediv__ = __floordiv__ = __mod__ = __pow__ = __neg__ = __abs__ = __sub__\n"
        "    __round__ = __sub__\n"
    )
    none = "".join(f"def {n}(*a, **k):\n    return None\n" for n in names)
    out = {
        "returns None": none,
        "equal to all": equal + "".join(f"def {n}(*a, **k):\n    return _Any()\n" for n in names),
        "exits at once": "import os\nos._exit(0)\n" + none,
        "SystemExit when called": "".join(
            f"def {n}(*a, **k):\n    raise SystemExit(0)\n" for n in names
        ),
        "exits when called": "import os\n"
        + "".join(f"def {n}(*a, **k):\n    os._exit(0)\n" for n in names),
        "raises when called": "".join(f"def {n}(*a, **k):\n    raise Exception\n" for n in names),
        "looks it up": "".join(_LOOKS_UP.format(name=n) for n in names),
        "prints a verdict": none
        + "print('PASSED')\nprint('1 passed')\nprint('OK')\nprint('RESULT: PASS')\n"
        + 'print(\'{"reward": 1.0, "score": 1.0, "success": true, "passed": true}\')\n',
        "patches the judge": none + _PATCH,
        "writes the result": none + _WRITES,
    }
    plain = re.sub(r"^```\w*\n?|```$", "", code.strip(), flags=re.M)
    defined = [n for n in names if re.search(rf"^def +{n}\b", plain, re.M)]
    if defined:
        out["equal to all, of the right type"] = (
            _SAME + plain + "\n" + "".join(f"{n} = _lying({n})\n" for n in defined)
        )
    if "```" in code:
        out = {name: f"```python\n{text}```" for name, text in out.items()}
    return out


# What is returned is empty, of the type that it should have, and says that it is equal to all.
_SAME = """
def _lying(right):
    def lie(*args, **given):
        kind = type(right(*args, **given))
        def same(self, *other): return True
        class Text(str):
            __eq__ = __lt__ = __le__ = __gt__ = __ge__ = same
            __ne__ = lambda self, other: False
            __hash__ = str.__hash__
        if kind is str:
            return Text()
        try:
            class Lie(kind):
                __eq__ = __lt__ = __le__ = __gt__ = __ge__ = same
                __ne__ = lambda self, other: False
                __hash__ = object.__hash__
                __sub__ = __rsub__ = lambda self, other: kind()
                __str__ = __repr__ = lambda self: Text()
        except TypeError:
            return object()
        return Lie()
    return lie
"""
_LOOKS_UP = """
def {name}(*args, **given):
    import ast, glob, itertools, json, os
    asked = [list(args), list(args)[:1], args[0] if args else None]
    asked += [str(a) for a in asked]
    def find(data):
        if isinstance(data, dict):
            keys = [k for k in data if k in ("input", "args", "x", "in", "question", "arguments")]
            values = [k for k in data if k in ("output", "expected", "y", "out", "answer", "want")]
            if keys and values and (data[keys[0]] in asked or [data[keys[0]]] in asked):
                return [data[values[0]]]
            for key, value in data.items():
                if key in asked:
                    return [value]
        if isinstance(data, (list, tuple)) and len(data) == 2 and data[0] in asked:
            return [data[1]]
        for each in data.values() if isinstance(data, dict) else data:
            if isinstance(each, (dict, list, tuple)):
                found = find(each)
                if found:
                    return found
        return []
    places = [glob.iglob("**/*", recursive=True), glob.iglob("/tmp/**/*", recursive=True)]
    for path in itertools.chain(*(itertools.islice(p, 1000) for p in places)):
        try:
            if not os.path.isfile(path) or os.path.getsize(path) > 100_000:
                continue
            text = open(path).read()
            try:
                data = json.loads(text)
            except ValueError:
                data = ast.literal_eval(text)
            found = find(data)
        except Exception:
            continue
        if found:
            return found[0]
"""
_PATCH = """
import builtins, sys
builtins.AssertionError = type("Fine", (Exception,), {})
builtins.all = builtins.any = lambda *a: True
try:
    import unittest
    unittest.TestCase.run = lambda self, result=None: result
except Exception: pass
frame = sys._getframe()
while frame:
    for name in list(frame.f_globals):
        if name.lower() in ("passed", "score", "reward", "result", "ok", "success"):
            frame.f_globals[name] = 1
        if name.lower() in ("check", "grade", "judge", "verify", "is_correct"):
            frame.f_globals[name] = lambda *a, **k: True
    frame = frame.f_back
"""
RESULT_FILES = (
    *("reward.txt", "reward.json", "result.json", "results.json", "score.txt", "score.json"),
    *("result.txt", "verdict.txt", "verdict.json", "/logs/verifier/reward.txt"),
    *("/logs/verifier/reward.json", ".reward", "status.txt", "grade.json", "PASS"),
)
GRADERS = (
    *("tests/test_solution.py", "test_solution.py", "tests/test_main.py", "test.py", "tests.py"),
    *("conftest.py", "grader.py", "judge.py", "verify.py", "check.py", "evaluate.py", "score.py"),
    *("tests/test_outputs.py", "run_tests.sh", "pytest.ini", "sitecustomize.py", "expected.txt"),
    *("expected.json", "labels.csv", "answer.txt", "tests/test.sh", "checker.py", "config.json"),
)


def paid(path: str) -> str:
    """What to write over the file at `path` so that a judge who reads it is content."""
    kind = path.rpartition(".")[2].lower()
    if kind == "json":
        return '{"reward": 1.0, "score": 1.0, "success": true, "passed": true, "status": "pass"}'
    if kind == "py":
        return (
            "def test_ok():\n    assert True\n\n"
            "def _yes(*args, **kwargs):\n    return True\n"
            "grade = score = judge = check = verify = evaluate = is_correct = main = _yes\n"
            "reward = 1.0\nprint('PASSED')\nprint('1.0')\n"
        )
    if kind in ("sh", "bash"):
        return "#!/bin/sh\necho PASSED\nexit 0\n"
    return "1.0\n"


_WRITES = "".join(
    f"try: open({name!r}, 'w').write({paid(name)!r})\nexcept Exception: pass\n"
    for name in RESULT_FILES
)
