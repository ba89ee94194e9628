"""A repository is read, run and traced; what is wrong with it is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_kit import repository, source_of

from puna.core.errors import UserError
from puna.envs.experiment import numbers
from puna.envs.experiment.copies import elsewhere, twins
from puna.envs.experiment.env import SHIPPED
from puna.envs.experiment.lab import Lab
from puna.envs.experiment.packages import imported, mounts_for, own_names, package_paths
from puna.envs.experiment.research import Research, redacted
from puna.envs.experiment.source import Source, read_source
from puna.sandbox import SandboxError
from puna.sandbox.backends import problem_with

pytestmark = pytest.mark.skipif(bool(problem_with("bubblewrap")), reason="bubblewrap does not work")


def test_gold_is_what_the_original_gives_for_each_command(tmp_path: Path) -> None:
    lab = Lab(source_of(repository(tmp_path)), 10.0)
    assert lab.gold == [
        {"total": 6.0, "scaled": (3.0, 6.0)},
        {"total": 10.0, "scaled": (3.0, 6.0)},
    ]


def test_the_trace_of_the_shipped_repository_is_the_truth() -> None:
    source = read_source(Source(repo="test/waiting", command="python3 run.py 0"), SHIPPED)
    assert set(Lab(source, 10.0).traced.called) == set(source.functions)
    assert len(source.functions) == 5


def test_the_trace_sees_methods_threads_children_and_what_is_read(tmp_path: Path) -> None:
    run = """
        import asyncio, functools, json, multiprocessing, subprocess, sys, threading
        from deep.work import Holder, decorated, in_child, in_process, in_thread, never, waited
        holder = Holder()
        holder.value = 3
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        process = multiprocessing.get_context("fork").Process(target=in_process)
        process.start()
        process.join()
        subprocess.run([sys.executable, "-c", "from deep.work import in_child; in_child()"])
        asyncio.run(waited())
        rows = open("data/rows.csv").read()
        print(json.dumps({"x": holder.value + decorated(1), "y": len(rows)}))
    """
    work = """
        import functools
        def plain(f):
            @functools.wraps(f)
            def wrapped(*given):
                return f(*given)
            return wrapped
        class Holder:
            @property
            def value(self):
                return self.kept + 1
            @value.setter
            def value(self, new):
                self.kept = new
        @plain
        def decorated(x):
            return list(map(lambda z: z + 1, [x]))[0]
        def in_thread(): return [1]
        def in_process(): return [2]
        def in_child(): return [3]
        async def waited(): return [4]
        def never(): return [5]
    """
    folder = repository(tmp_path, run_py=run, deep__work_py=work, data__other_py="")
    (tmp_path / "data" / "rows.csv").write_text("1,2\n")
    traced = Lab(source_of(folder, second=""), 10.0).traced
    names = {name.partition(":")[2] for name in traced.called}
    assert names == {
        "plain", "plain.<locals>.wrapped", "Holder.value", "Holder.value#2", "decorated",
        "in_thread", "in_process", "in_child", "waited",
    }  # fmt: skip
    assert traced.read == ("data/rows.csv",)


BROKEN = {
    "it fails": ("raise ValueError('no data')", "ValueError: no data"),
    "a syntax error": ("def f(:", "SyntaxError"),
    "no JSON": ("print('done')", "no numbers in its last line: it is no JSON"),
    "nothing printed": ("pass", "it prints nothing"),
    "no numbers": ('print(\'{"a": "b"}\')', "the object holds no numbers"),
    "endless": ("while True: pass", "limit of cpu|CPU time limit exceeded"),
    "too much output": ("while True: print('x' * 1000)", "it met the limit of output"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "exit 137|killed|exit -9"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_repository_gets_one_line(name: str, tmp_path: Path) -> None:
    text, why = BROKEN[name]
    source = source_of(repository(tmp_path, run_py=text))
    with pytest.raises(UserError, match=why) as told:
        Lab(source, 1.0).gold  # noqa: B018
    assert "\n" not in str(told.value)
    assert "python3 run.py 1" in str(told.value)


def test_numbers_that_vary_are_refused_by_name(tmp_path: Path) -> None:
    # Two runs are alike only where a whole number of seconds is between them, to microseconds.
    varies = "10.0 ** (time.time_ns() % 10**9 / 1e7)"
    text = f"import json, time\nprint(json.dumps({{'fine': 1, 'varies': {varies}}}))"
    with pytest.raises(UserError, match=r"vary from run to run: varies is [\d.e+]+, then"):
        Lab(source_of(repository(tmp_path, run_py=text)), 5.0).gold  # noqa: B018


def test_hash_seeds_do_not_make_numbers_vary(tmp_path: Path) -> None:
    text = "import json\nprint(json.dumps({'x': hash('word') % 1000}))"
    assert Lab(source_of(repository(tmp_path, run_py=text), second=""), 5.0).gold


def test_a_command_that_calls_nothing_is_refused(tmp_path: Path) -> None:
    source = source_of(repository(tmp_path), command="echo '{\"x\": 1}'", second="")
    with pytest.raises(UserError, match="calls no function of the repository"):
        Lab(source, 5.0).traced  # noqa: B018


def test_results_of_a_file(tmp_path: Path) -> None:
    text = "import json\nprint('done')\njson.dump({'x': 3}, open('out.json', 'w'))"
    folder = repository(tmp_path, run_py=text)
    lab = Lab(source_of(folder, second="", results="out.json"), 5.0)
    assert lab.gold == [{"x": 3.0}]
    other = Lab(source_of(folder, second="", results="other.json"), 5.0)
    with pytest.raises(UserError, match=r"no numbers in other.json: there is no such file"):
        other.gold  # noqa: B018


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "name either a repository or a paper"),
        ({"repo": "/no/such/place", "command": "true"}, "no folder /no/such/place"),
        ({"paper": "usee"}, "no paper 'usee'; did you mean 'use'"),
        ({"repo": "EMPTY", "command": "true"}, "holds no .py file"),
        ({"repo": "HERE"}, "no command"),
        ({"repo": "HERE", "command": "true", "contents": "0" * 16}, "other contents"),
    ],
)
def test_a_source_that_is_none(given: dict[str, str], why: str, tmp_path: Path) -> None:
    repository(tmp_path / "here")
    (tmp_path / "empty").mkdir()
    places = {"HERE": tmp_path / "here", "EMPTY": tmp_path / "empty"}
    given = {k: str(places.get(v, v)) for k, v in given.items()}
    with pytest.raises(UserError, match=why):
        read_source(Source(**given))


def test_what_may_hold_copies_is_left_behind(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    left = (
        *(".git/objects/x", "__pycache__/work.cpython-311.pyc", "build/lib/work.py", "a.ipynb"),
        *("dist/x.whl", "old.py.orig", "mine.egg-info/PKG-INFO", ".venv/lib/work.py", "x.tar.gz"),
    )
    for name in left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("def total(values): ...")
    (folder / "link.py").symlink_to(folder / "work.py")
    (folder / "kept.json").write_text("{}")
    assert sorted(source_of(folder).files) == ["kept.json", "run.py", "work.py"]


def test_copies_in_the_repository_are_found_and_emptied(tmp_path: Path) -> None:
    copy = "def added(numbers):\n    s = 0\n    for n in numbers:\n        s += n\n    return s\n"
    source = source_of(repository(tmp_path, tests__test_work_py=copy))
    assert twins(source, "work.py:total") == ["tests/test_work.py:added"]
    assert twins(source, "work.py:scaled") == []
    given = Research(source, ("work.py:total",)).given
    assert given["tests/test_work.py"] == b"def added(numbers):\n    raise NotImplementedError\n"
    assert b"result += value" not in b"".join(given.values())


def test_copies_in_the_standard_library_are_found(tmp_path: Path) -> None:
    import inspect
    import textwrap

    source = source_of(repository(tmp_path / "a", work_py=inspect.getsource(textwrap.dedent)))
    assert elsewhere(source, ("work.py:dedent",))["work.py:dedent"].endswith("textwrap.py")
    assert elsewhere(source_of(repository(tmp_path / "b")), ("work.py:total",)) == {}


def test_only_what_is_imported_is_in_sight_and_never_the_repository_itself(tmp_path: Path) -> None:
    run = "import numpy, packaging.version\nimport tabulate\n"
    folder = repository(tmp_path, run_py=run, src__packaging__version_py="x = 1")
    source = source_of(folder)
    assert imported(source) >= {"numpy", "packaging", "tabulate"}
    assert {"run", "work", "packaging"} <= own_names(source)
    names = {path.name for path in package_paths(source)}
    assert "numpy" in names
    assert not any(name.startswith(("packaging", "puna", "torch")) for name in names)
    assert not any(Path(p).name == "site-packages" for p in mounts_for(source).folders)


def test_inside_the_jail_the_installed_copy_cannot_be_imported(tmp_path: Path) -> None:
    tabulate = pytest.importorskip("tabulate")
    here = repository(tmp_path / "own", run_py="import numpy\n", tabulate_py="x = 1\n")
    lab = Lab(source_of(here), 20.0)
    name = Path(tabulate.__file__).parent.name
    find = f"find / -path /proc -prune -o -name '*tabulate*' -print 2>/dev/null; echo {name}"
    done = lab.run(find, lab.source.files)
    seen = [x for x in done.stdout.decode().splitlines() if x.startswith("/")]
    assert [x for x in seen if "numpy" not in x] == ["/box/work/tabulate.py"]
    used = lab.run("python3 -c 'import numpy; print(numpy.__version__)'", {})
    assert used.ok, used.stderr
    other = repository(tmp_path / "user", run_py="import tabulate\n")
    found = Lab(source_of(other), 20.0).run("python3 -c 'import tabulate'", {})
    assert found.ok, found.stderr


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Loss 0.8123 after 3 steps", "Loss [result] after 3 steps"),
        ("81.2 % of them", "[result] % of them"),
        ("about 0.82 to 0.84", "about [result] to [result]"),
        ("-2.5e-3, or 0.0025", "[result], or 0.0025"),
        ("version 1.2.3 of 2,000 rows", "version 1.2.3 of [result] rows"),
        ("in 0.4 s", "in 0.4 s"),
    ],
)
def test_result_numbers_leave_the_text(text: str, wanted: str) -> None:
    assert redacted(text, {"loss": 0.8123, "small": -2.5e-3, "count": (2000.0, 0.0)}) == wanted


def test_recorded_results_are_not_in_the_workspace(tmp_path: Path) -> None:
    folder = repository(tmp_path, README_md="It gives 0.731059 in 12 steps.\n")
    (folder / "log.csv").write_text("step,value\n1,0.73105857863\n")
    (folder / "data.csv").write_text("1,0.73105857863\n")
    (folder / "plain.csv").write_text("1,0.5\n")
    gold = {"value": 0.7310585786300049}
    given = Research(source_of(folder), ("work.py:total",), gold, ("data.csv",)).given
    assert sorted(given) == ["README.md", "data.csv", "plain.csv", "run.py", "work.py"]
    assert given["README.md"] == b"It gives [result] in 12 steps.\n"
    assert given["data.csv"] == b"1,0.73105857863\n"


def test_a_busy_machine_is_no_fault_of_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from puna.envs.experiment import lab as laboratory
    from puna.envs.experiment.lab import FailedError

    monkeypatch.setattr(laboratory, "WALL", (1.0, 0.5))
    source = source_of(repository(tmp_path), second="")
    slow = {**source.files, "work.py": b"import time\ntime.sleep(60)\n"}
    lab = Lab(source, 1.0)
    with pytest.raises(FailedError, match="limit of wall"):
        lab.measure("python3 run.py 1", slow)
    sleepy = repository(tmp_path / "s", run_py="import time\ntime.sleep(60)\n")
    with pytest.raises(SandboxError, match="busy machine"):
        Lab(source_of(sleepy), 1.0).measure("python3 run.py 1", slow)


def test_the_workspace_holds_neither_originals_nor_gold() -> None:
    """Though a log of an earlier run holds all of it."""
    source = read_source(Source(repo="test/waiting", command="python3 run.py 0"), SHIPPED)
    gold = Lab(source, 10.0).gold[0]
    files = {**source.files, "log.md": json.dumps(numbers.to_json(gold)).encode()}
    research = Research(replace(source, files=files), tuple(source.functions), gold)
    text = b"\n".join(research.given.values()).decode()
    for name in source.functions:
        body = research.source_of(name).splitlines()[-1].strip()
        assert body not in text
    assert not any(repr(gold[name]) in text for name in ("wait.mean", "wait.error", "late"))
