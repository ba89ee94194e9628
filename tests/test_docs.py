"""What the documentation says is true: its commands run, its links lead somewhere.

The fences of a page run in order in one empty directory that has a small `runs/quickstart`. `make`
lines are left out (.ci/run runs them); port 8000 is answered by a server in this file, or by the
one that a fence with the word `serves` started before.
"""

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
UNBOUNDED = {"recipes.md", "verbs.md", "decisions.md", "log.md"}
# Tables that docs/generate.py keeps within a page are no part of its length.
MADE = re.compile(r"<!-- \w+: made by .*?<!-- end of \w+ -->", re.DOTALL)
FENCE = re.compile(r"^```(\w+)?([^\n`]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"^(?:\w+=\S+ )*make\b")
ELSEWHERE = (". .venv/bin/activate", "python docs/generate.py")
ENDPOINT = "http://127.0.0.1:8000"
SMALL = [
    "pretrain.steps=4",
    "pretrain.max_bytes=100000",
    "pretrain.with_baselines=false",
    "pretrain.sample_every=0",
    "pretrain.model={preset='nano', hidden_size=32, num_heads=2, num_layers=2}",
    "sft.steps=4",
    "sft.demos=50",
    "sft.eval_tasks=10",
    "rl.steps=2",
    "rl.prompts=2",
    "rl.samples=2",
    "rl.eval_tasks=10",
    "eval.n=10",
]


@dataclass(frozen=True)
class Fence:
    language: str
    words: tuple[str, ...]
    body: str

    @property
    def slow(self):
        return "slow" in self.words

    @property
    def file(self):
        return next((w[5:] for w in self.words if w.startswith("file=")), "")

    @property
    def serves(self):
        return "serves" in self.words

    @property
    def status(self):
        return next((int(w[5:]) for w in self.words if w.startswith("exit=")), 0)


def fences(page):
    found = FENCE.findall(page.read_text())
    return [Fence(language, tuple(words.split()), body) for language, words, body in found]


def runnable(page):
    return [f for f in fences(page) if f.language in ("sh", "python", "output")]


def tracked_files():
    """What git would publish; without git, what lies here outside of hidden and built folders."""
    asked = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(asked, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        folders = ("puna", "tests", "docs", "recipes", "benchmarks")
        names = [str(p.relative_to(ROOT)) for f in folders for p in (ROOT / f).rglob("*.*")]
        names += [p.name for p in ROOT.glob("*.*")]
    return [ROOT / n for n in names if n and (ROOT / n).is_file() and "__pycache__" not in n]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Variables under which `puna` and `python` are this checkout's, whatever is installed."""
    programs = tmp_path_factory.mktemp("bin")
    for name, arguments in (("python", ""), ("puna", " -m puna.cli")):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


@pytest.fixture(scope="session")
def quickstart(environment, tmp_path_factory):
    """A quickstart run of a few steps: what every page but the first takes for granted."""
    there = tmp_path_factory.mktemp("quickstart")
    command = ["puna", "run", "quickstart", "--only", "eval", "--quiet"]
    for text in SMALL:
        command += ["--set", text]
    done = execute(command, there, environment)
    assert done.returncode == 0, done.stdout
    return there / "runs"


class Answers(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that adds; it wants the key that the pages export."""

    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "adder", "object": "model"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = str(sum(map(int, re.findall(r"[+-]?\d+", text_of(asked["messages"][-1])))))
        self.reply(
            {
                "id": "1",
                "object": "chat.completion",
                "model": "adder",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": said},
                    }
                ],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
            }
        )

    def reply(self, body):
        allowed = self.headers.get("Authorization") == "Bearer your-key"
        data = json.dumps(body if allowed else {"error": {"message": "no key"}}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def text_of(message):
    content = message["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


@pytest.fixture(scope="session")
def endpoint():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def execute(command, where, environment, timeout=280):
    return subprocess.run(
        command,
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def script_of(fence):
    """The commands of a fence, without those that only a person's own checkout can run."""
    lines = fence.body.splitlines()
    kept = [x for x in lines if not MAKE.match(x) and not x.startswith(ELSEWHERE)]
    return "\n".join(kept).strip()


@contextlib.contextmanager
def servers(where, environment):
    """A function that starts a command, waits until it tells its address, and returns that."""
    started = []

    def start(script):
        at = len(started)
        told = where / f"served-{at}.txt"
        with open(told, "w") as out:
            command = ["bash", "-e", "-c", script + " --port 0"]
            started.append(subprocess.Popen(
                command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            ))  # fmt: skip
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://([\w.]+):(\d+)/", told.read_text())):
            assert started[at].poll() is None, told.read_text()
            assert time.monotonic() < deadline, f"{script} does not tell its address"
            time.sleep(0.1)
        return f"http://127.0.0.1:{found[2]}"

    try:
        yield start
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=120)


def follow(page, where, environment, endpoint, slow):
    """Run a page's fences in order and compare what they print with what the page says."""
    with servers(where, environment) as serve:
        return _follow(page, where, environment, endpoint, slow, serve)


def _follow(page, where, environment, endpoint, slow, serve):
    printed, ran = "", 0
    for fence in runnable(page):
        if fence.language == "output":
            for line in fence.body.splitlines():
                assert line.strip() in printed, f"{page.name} promises {line!r}, got:\n{printed}"
            continue
        script = script_of(fence).replace(ENDPOINT, endpoint)
        if not script or (fence.slow and not slow):
            continue
        if fence.file:
            (where / fence.file).write_text(fence.body)
            continue
        if fence.serves:
            endpoint, ran = serve(script), ran + 1
            continue
        command = ["bash", "-e", "-c", script]
        if fence.language == "python":
            command = ["python", "-c", script]
        done = execute(command, where, environment, 1800 if slow else 280)
        printed, ran = done.stdout, ran + 1
        assert done.returncode == fence.status, f"{page.name}:\n{script}\n\n{printed}"
        assert "Traceback" not in printed, f"{page.name}:\n{script}\n\n{printed}"
    return ran


def place(tmp_path, quickstart):
    shutil.copytree(quickstart, tmp_path / "runs")
    return tmp_path


HAS_COMMANDS = [p for p in PAGES if any(script_of(f) for f in runnable(p))]
HAS_SLOW = [p for p in HAS_COMMANDS if any(f.slow for f in runnable(p))]


@pytest.mark.parametrize("page", HAS_COMMANDS, ids=lambda p: p.name)
def test_every_command_of_a_page_works(page, tmp_path, quickstart, environment, endpoint):
    assert follow(page, place(tmp_path, quickstart), environment, endpoint, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", HAS_SLOW, ids=lambda p: p.name)
def test_slow_commands_work_too(page, tmp_path, quickstart, environment, endpoint):
    assert follow(page, place(tmp_path, quickstart), environment, endpoint, slow=True)


def test_a_command_that_fails_is_noticed(tmp_path, environment):
    page = tmp_path / "page.md"
    page.write_text("```sh\npuna audit ./nothing.py\n```\n")
    with pytest.raises(AssertionError, match="no environment file"):
        follow(page, tmp_path, environment, ENDPOINT, slow=False)
    page.write_text("```sh\necho one\n```\n\n```output\ntwo\n```\n")
    with pytest.raises(AssertionError, match="promises 'two'"):
        follow(page, tmp_path, environment, ENDPOINT, slow=False)


def test_readme_names_the_commands_that_ci_runs():
    ci, readme = (ROOT / ".ci/run").read_text(), (ROOT / "README.md").read_text()
    for command in ("make quickstart", "make test"):
        assert re.search(rf"^{command}\b", readme, re.MULTILINE)
        assert re.search(rf'^step "\w+" {command}$', ci, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_are_short(page):
    words = len(MADE.sub("", page.read_text()).split())
    assert page.parent != ROOT / "docs" or page.name in UNBOUNDED or words < 500, words


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


def test_readme_links_to_every_page():
    text = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text


def test_no_file_names_a_registry_or_a_machine():
    # Written in pieces, so that this file does not find itself.
    hosts = [name + ".org" for name in ("pypi", "pythonhosted", "download.pytorch", "npmjs")]
    paths = [rf"(?<![\w.])/{folder}/" for folder in ("work", "root", "opt/(?:pypi|wheels)")]
    wrong = re.compile("|".join([*map(re.escape, hosts), *paths]))
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in wrong.finditer(text)]
    assert not found
    assert wrong.search("see https://" + hosts[0] + "/simple")
    assert wrong.search("cd /" + "work/main")
    assert not wrong.search("tests/work/x and our/root/x")


def test_references_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_verbs_and_their_options_are_those_of_the_command(monkeypatch, capsys):
    from puna import cli

    monkeypatch.setenv("COLUMNS", "300")
    sections = (ROOT / "docs/verbs.md").read_text().split("\n## puna ")[1:]
    named = re.compile(r"^\| .*?`(--[\w-]+)`", re.MULTILINE)
    written = {text.splitlines()[0]: set(named.findall(text)) for text in sections}
    assert [verb for verb in written if " " not in verb] == list(cli.VERBS)
    assert [verb for verb in written if " " in verb] == list(cli.NOUNS)
    for verb, options in written.items():
        with contextlib.suppress(SystemExit):
            cli.main([*verb.split(), "--help"])
        lines = [x.strip(" │") for x in capsys.readouterr().out.splitlines()]
        heads = [x.partition("  ")[0] for x in lines if x.startswith("-")]
        shown = {name for head in heads for name in re.findall(r"--(?!no-|help)\w[\w-]*", head)}
        assert options == shown, verb


def test_an_option_that_nothing_is_said_of_is_noticed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import ast

    import verbs

    (cls,) = ast.parse("class Options:\n    a: int = 3\n    b: str = ''\n    'said'\n").body
    with pytest.raises(SystemExit, match="says nothing below work's option a"):
        list(verbs.fields(cls, "work"))


def test_shipped_recipes_can_be_planned():
    from puna.core.recipe import read_recipe, shipped_recipes
    from puna.run import resolve

    shipped = shipped_recipes()
    assert {"quickstart", "arithmetic", "text"} <= set(shipped)
    for path in shipped.values():
        assert resolve(read_recipe(path))


def test_toml_in_the_pages_is_what_recipes_accept():
    from puna.core.config import build
    from puna.core.machine import MachineConfig
    from puna.run import KINDS

    checked = 0
    for page in PAGES:
        for fence in (f for f in fences(page) if f.language == "toml"):
            table = tomllib.loads(fence.body)
            build(MachineConfig, table.get("machine", {}), "machine")
            for stage in table["stage"]:
                own = ("id", "kind", "from", "rounds", "matrix")
                settings = {k: v for k, v in stage.items() if k not in own}
                build(importlib.import_module(KINDS[stage["kind"]]).Config, settings, page.name)
                checked += 1
    assert checked >= 3
