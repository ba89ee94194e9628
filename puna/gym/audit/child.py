"""The process in which an environment is loaded and probed; its parent survives whatever it does.

`python -m puna.gym.audit.child REQUEST`: a JSON object with the target, and the descriptors to
report on (`report`: JSON lines; `now`: what is being played, rewritten in place).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from puna.core.errors import UserError
from puna.core.jobs import die_with_parent
from puna.core.outcome import Scored
from puna.gym.audit import data_probes
from puna.gym.audit.bench import Bench
from puna.gym.audit.making import FEW, Tasks
from puna.gym.audit.probe import Probe, Result
from puna.gym.audit.probes import PROBES, busy_probe
from puna.gym.loop import identity, refuse_less_isolation
from puna.gym.registry import BrokenEnvironmentError, load_environment
from puna.gym.task import script

NOTE_BYTES = 400


class Reporter:
    """Lines to the parent, and the note of what is going on."""

    def __init__(self, report: int, now: int) -> None:
        self.report, self.now = report, now
        self.pid, self.count = os.getpid(), 0

    def line(self, **what: Any) -> None:
        """One JSON line; a forked copy of this process says nothing."""
        if os.getpid() == self.pid:
            data = json.dumps(what).encode() + b"\n"
            while data:
                data = data[os.write(self.report, data) :]

    def note(self, text: str) -> None:
        """What is about to be played; the count shows that things move."""
        self.count += 1
        data = f"{self.count} {text}".encode(errors="replace")[:NOTE_BYTES]
        os.pwrite(self.now, data.ljust(NOTE_BYTES), 0)

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Let the parent take most of the processor away meanwhile."""
        self.line(busy=True)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the parent lets it go on, for moments
        try:
            yield
        finally:
            self.line(busy=False)


async def main(request: dict[str, Any]) -> None:
    """Load, probe, report."""
    say = Reporter(request["report"], request["now"])
    say.note("loading the environment")
    try:
        env = load_environment(request["target"], request["settings"], request["seed"])
        refuse_less_isolation(env)
    except BrokenEnvironmentError as error:
        say.line(broken=str(error))
        return
    except UserError as error:
        say.line(refused=error.what, fix=error.fix)
        return
    say.line(env=identity(env), judge_seconds=env.judge_seconds)
    tasks, n = Tasks(env, say.note), request["n"]
    why = data_probes.tasks_or_why(tasks, min(n, FEW))
    made = {}
    if request["facts"] and tasks.slow:
        n = min(n, FEW)
        made["digests"] = {f"{s}/{i}": task.digest for (s, i), task in tasks.known.items()}
    why = why or data_probes.tasks_or_why(tasks, n)
    if why:
        say.line(broken=why)
        return
    say.note("setting up and playing the oracle")
    try:
        bench = await Bench(env, n, say.note, tasks).open()
        bench.memo |= made
    except Exception as error:
        say.line(broken=f"{env.name} cannot be set up: {type(error).__name__}: {error}"[:400])
        return
    if request["facts"]:
        say.line(facts=await facts(bench))
    else:
        for probe in (*PROBES, busy_probe(say.slow)):
            if probe.name not in request["skip"] and probe.name in (request["only"] or probe.name):
                say.line(began=probe.name)
                say.note(f"asking for {probe.name}")
                say.line(result=asdict(await _ask(probe, bench)), probe=probe.name)
        if not request["only"]:
            say.line(facts=await facts(bench))
    say.note("tearing down")
    with contextlib.suppress(Exception):
        bench.close()
    say.line(done=True)


async def _ask(probe: Probe, bench: Bench) -> Result:
    try:
        return await probe.ask(bench)
    except Exception as error:  # e.g. an oracle that fails only at the second time
        return Result("hole", f"the environment fails: {type(error).__name__}: {error}"[:300])


async def facts(bench: Bench) -> dict[str, Any]:
    """What another process must find too: every task, and verdicts on three answers to each.

    `few`: not all of them, since they take long.
    """
    made = bench.memo.get("digests") if bench.tasks.slow else None
    found: dict[str, Any] = {
        "tasks": made or data_probes.digests(bench.tasks, bench.n),
        "verdicts": {},
        "few": bench.slow or bench.tasks.slow,
    }
    for case in bench.few:
        answers = {
            "nothing": script([]),
            "wrong": case.instead(case.wrong[0] if case.wrong else "x"),
        }
        if case.said:
            answers["reference"] = script(case.said)
        for name, attack in answers.items():
            outcome = (await bench.attempt(case, attack, name)).outcome
            told = [outcome.value, outcome.success] if isinstance(outcome, Scored) else [None, None]
            found["verdicts"][f"{case.task.id} {case.role} {name}"] = told
    return found


def start(text: str) -> None:
    """Run a request, and end this process whatever threads the environment has left in it."""
    request = json.loads(text)
    die_with_parent()
    try:
        asyncio.run(main(request))
        code = 0
    except BaseException as error:
        Reporter(request["report"], request["now"]).line(crashed=f"{type(error).__name__}: {error}")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    start(sys.argv[1])
