"""`audit(target)`: probes a reward in processes of their own, and survives what happens there."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from puna.core.errors import UserError, nearest
from puna.core.jobs import PARENT
from puna.gym.audit.bench import JUDGING
from puna.gym.audit.findings import Audit, Finding
from puna.gym.audit.probes import BUSY, LOAD, OTHER_PROCESS, PROBES, PROCESS, names, reason
from puna.gym.registry import FOREIGN
from puna.sandbox.inside.linux import children_of

TASKS = 12  # of each split
STUCK_S = 90.0  # one episode
PROBE_S = 900.0  # all tries of one probe
RESTARTS = 6
MUCH, FLOOD = 1 << 20, 1 << 30  # bytes of output: worth a note; ended at
LOUD = 16 << 20  # a hole
STOPPED_S, GOING_S = 0.05, 0.001  # a machine that is busy with others
BUSY_S = 6.0  # for so long at most

Progress = Callable[[str], None]


@dataclass
class _Seen:
    """What the processes of one audit told, together."""

    env: Mapping[str, str] = field(default_factory=dict)
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: list[Mapping[str, Any]] = field(default_factory=list)
    broken: str = ""
    deaths: list[str] = field(default_factory=list)
    output: int = 0
    left_over: int = 0


def audit(
    target: str,
    *,
    n: int = TASKS,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    progress: Progress = lambda probe: None,
) -> Audit:
    """Probe the reward `target` on `n` tasks of each split, more of them where luck is in question.

    `target` is whatever `load_environment` takes; `only` names the probes to ask (all if empty).
    The environment runs in processes of its own: one that hangs, dies, forks or floods the output
    is a finding. Raises UserError where there is no such target or its settings are wrong.
    """
    if n < 1:
        raise UserError(f"n is {n}", "probe at least one task")
    for name in only:
        if name not in names():
            raise UserError(f"no probe '{name}'", nearest(name, names()))
    began = time.monotonic()
    seen = _Seen()
    given = dict(settings or {})
    request = {"target": target, "settings": given, "seed": seed, "n": n}
    asked = set(only)
    with contextlib.ExitStack() as stack:
        second = None
        if not asked or OTHER_PROCESS in asked:
            second = stack.enter_context(_Child({**request, "facts": True}, "1"))
        for _ in range(RESTARTS):
            wanted = [p for p in (*(p.name for p in PROBES), BUSY) if p in (asked or (p,))]
            done = [p for p in wanted if p in seen.results]
            more = {
                "facts": OTHER_PROCESS in asked,
                "skip": done,
                "only": [] if not asked else wanted,
            }
            with _Child({**request, **more}, "0") as child:
                if child.follow(seen, progress) or seen.broken:
                    break
        if second and not seen.broken:
            second.follow(seen, progress)
    found = _findings(seen, asked)
    command = _command(target, n, seed, given)
    found = [_with_command(f, command) for f in found]
    env = seen.env or {"name": target, "version": "?", "hash": ""}
    return Audit(target, env, n, seed, tuple(found), given, time.monotonic() - began)


def _command(target: str, n: int, seed: int, settings: Mapping[str, Any]) -> str:
    words = ["puna", "audit", target]
    words += [f"-n={n}"] if n != TASKS else []
    words += [f"--seed={seed}"] if seed else []
    for key, value in settings.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        words += ["--set", f"env.{key}={shown}"]
    return shlex.join(words)


def _with_command(found: Finding, command: str) -> Finding:
    return replace(found, command=f"{command} --probe {shlex.quote(found.probe)}")


def _findings(seen: _Seen, asked: set[str]) -> list[Finding]:
    found = []
    if seen.broken:
        found.append(Finding(LOAD, reason(LOAD), "hole", seen.broken))
    for probe in (*(p.name for p in PROBES), BUSY):
        told = seen.results.get(probe)
        if told:
            given = {**told, "evidence": tuple(told["evidence"])}
            found.append(Finding(probe, reason(probe), **given))
    if not asked or OTHER_PROCESS in asked:
        found += _agreement(seen)
    found.append(_manners(seen))
    return found


def _agreement(seen: _Seen) -> list[Finding]:
    if len(seen.facts) < 2:
        return []
    a, b = seen.facts[:2]
    either = {k: [x for x in a[k] if x in b[k] or not (a["few"] or b["few"])]
              for k in ("tasks", "verdicts")}  # fmt: skip
    tasks = [t for t in either["tasks"] if a["tasks"][t] != b["tasks"].get(t)]
    verdicts = [v for v in either["verdicts"] if a["verdicts"][v] != b["verdicts"].get(v)]
    why = reason(OTHER_PROCESS)
    if tasks:
        said = f"{len(tasks)} of {len(either['tasks'])} tasks differ, e.g. {tasks[0]}"
        return [Finding(OTHER_PROCESS, why, "hole", said)]
    if verdicts:
        first = verdicts[0]
        said = f"{len(verdicts)} of {len(either['verdicts'])} verdicts differ: {first} gets "
        said += f"{a['verdicts'][first]} and {b['verdicts'].get(first)}"
        return [Finding(OTHER_PROCESS, why, "hole", said)]
    said = f"{len(either['tasks'])} tasks and {len(either['verdicts'])} verdicts agree"
    return [Finding(OTHER_PROCESS, why, "ok", said)]


def _manners(seen: _Seen) -> Finding:
    why = reason(PROCESS)
    if seen.deaths:
        return Finding(PROCESS, why, "hole", seen.deaths[0], "", tuple(seen.deaths[:5]))
    if seen.left_over:
        return Finding(PROCESS, why, "hole", f"{seen.left_over} processes are left behind")
    if seen.output > LOUD:
        return Finding(PROCESS, why, "hole", f"{seen.output / 1e6:,.0f} MB of output")
    if seen.output > MUCH:
        return Finding(PROCESS, why, "note", f"{seen.output / 1e6:,.1f} MB of output")
    return Finding(PROCESS, why, "ok", "ends in good order")


class _Child:
    """One process under audit: its report, its output, its note of what it does."""

    def __init__(self, request: Mapping[str, Any], hash_seed: str) -> None:
        report, write = os.pipe()
        self.report = report
        self.now = tempfile.TemporaryFile()  # noqa: SIM115
        self.folder = tempfile.TemporaryDirectory(prefix="puna-audit-")
        fds = (write, self.now.fileno())
        given = {"skip": [], "only": [], **request, "report": write, "now": self.now.fileno()}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "puna.gym.audit.child", json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
                start_new_session=True,
                cwd=self.folder.name if _of_a_library(request["target"]) else None,
                env={
                    **os.environ,
                    "PYTHONHASHSEED": hash_seed,
                    "PYTHONPATH": _search_path(),
                    PARENT: str(os.getpid()),
                },
            )
        finally:
            os.close(write)
        self.rest, self.probe, self.busy = b"", "", False
        self.busy_since, self.judge_s = 0.0, STUCK_S

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *why: object) -> None:
        self.kill()
        os.close(self.report)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.now.close()
        self.folder.cleanup()

    def kill(self) -> None:
        """End it and what belongs to it."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def doing(self) -> str:
        """Its note: a count and what is being played."""
        return os.pread(self.now.fileno(), 1000, 0).decode(errors="replace").strip("\0 \n")

    def follow(self, seen: _Seen, progress: Progress) -> bool:
        """Listen until it is done (True), or dies or has to be ended, which is noted."""
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        os.set_blocking(output, False)
        os.set_blocking(self.report, False)
        note, since, asked = "", time.monotonic(), time.monotonic()
        with selectors.DefaultSelector() as ready:
            ready.register(output, selectors.EVENT_READ)
            ready.register(self.report, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select(0 if self.busy else 0.5):
                    if key.fd == output:
                        if not self._drain(output, seen):
                            ready.unregister(output)
                        continue
                    for line in self._lines():
                        if line is None:
                            return self._died(seen)
                        if "began" in line:
                            progress(line["began"])
                            asked = time.monotonic()
                        if self._take(line, seen):
                            return self._end(seen)
                if self.busy:
                    self._hold()
                now = time.monotonic()
                doing = self.doing()
                if doing != note:
                    note, since = doing, now
                patience = self.judge_s if _plain(doing).startswith(JUDGING) else STUCK_S
                if now - since > patience:
                    what = f"hangs (waited {patience:g} s): {_plain(doing)}"
                    return self._stop(seen, what, "hole")
                if now - asked > PROBE_S:
                    return self._stop(seen, f"not done after {PROBE_S:g} s", "note")
                if seen.output > FLOOD:
                    return self._stop(seen, f"{seen.output / 1e9:.1f} GB of output", "hole")

    def _drain(self, output: int, seen: _Seen) -> bool:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                data = os.read(output, 1 << 16)
                if not data:
                    return False
                seen.output += len(data)
        return True

    def _lines(self) -> Iterator[dict[str, Any] | None]:
        """Lines that have come; None where the other end is closed."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.report, 1 << 16):
                self.rest += data
                *whole, self.rest = self.rest.split(b"\n")
                for line in whole:
                    yield json.loads(line)
            yield None

    def _take(self, line: Mapping[str, Any], seen: _Seen) -> bool:
        """Note what a line tells; True where it was the last."""
        if "refused" in line:
            raise UserError(line["refused"], line["fix"])
        if "env" in line:
            seen.env = line["env"]
            self.judge_s = 1.5 * line["judge_seconds"] + 1
        if "began" in line:
            self.probe = line["began"]
        if "result" in line:
            seen.results[line["probe"]] = line["result"]
            self.probe = ""
        if "busy" in line:
            self.busy, self.busy_since = line["busy"], time.monotonic()
            if not self.busy:
                self._signal(signal.SIGCONT)
        if "facts" in line:
            seen.facts.append(line["facts"])
        if "crashed" in line:
            self._dead(seen, f"it fails: {line['crashed']}")
        seen.broken = line.get("broken", "") or seen.broken
        return bool({"done", "broken"} & line.keys())

    def _hold(self) -> None:
        """Let it have the processor for a moment only; between moments it stands still."""
        self._signal(signal.SIGSTOP)
        time.sleep(STOPPED_S)
        pids = self._signal(signal.SIGCONT)
        time.sleep(GOING_S)
        if time.monotonic() - self.busy_since > BUSY_S:
            self.busy = False
        else:  # now, and not when all that is looked at between moments is done
            self._signal(signal.SIGSTOP, pids)

    def _signal(self, signum: signal.Signals, pids: Sequence[int] = ()) -> Sequence[int]:
        """Send it to `pids`, if none are given to all its processes, which are returned."""
        pids = pids or [self.process.pid, *_descendants(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signum)
        return pids

    def _end(self, seen: _Seen) -> bool:
        """It says it is done: see it go, and what it leaves."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2.0)
        seen.left_over += sum(1 for pid in _session(self.process.pid) if pid != self.process.pid)
        self.kill()
        return True

    def _died(self, seen: _Seen) -> bool:
        try:
            code = self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            code = 0
        what = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        self._dead(seen, f"the process ended ({what}) at: {_plain(self.doing())}")
        return False

    def _stop(self, seen: _Seen, what: str, status: str) -> bool:
        self.kill()
        if status == "hole":
            self._dead(seen, what)
        elif self.probe:
            seen.results[self.probe] = {"status": status, "seen": what, "evidence": []}
        return False

    def _dead(self, seen: _Seen, what: str) -> None:
        seen.deaths.append(what)
        if self.probe:
            seen.results[self.probe] = {"status": "hole", "seen": what, "evidence": []}
        elif not seen.results:
            seen.broken = what


def _of_a_library(target: str) -> bool:
    """Whether it is no file of the user's: what its code writes goes to a folder of ours."""
    library, _, rest = target.partition(":")
    return library in FOREIGN and not os.path.exists(rest.partition(":")[0])


def _search_path() -> str:
    """Where this process finds modules, for one that may stand in another directory."""
    return os.pathsep.join(dict.fromkeys(os.path.abspath(p) for p in sys.path))


def _plain(note: str) -> str:
    return note.partition(" ")[2]


def _descendants(pid: int) -> list[int]:
    """Children of `pid` and theirs."""
    found, todo = [], [pid]
    while todo:
        children = children_of(todo.pop())
        found += children
        todo += children
    return found


def _session(leader: int) -> list[int]:
    """Living processes of a session, where /proc tells."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if name.isdigit():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat") as f,
            ):
                fields = f.read().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    found.append(int(name))
    return found
