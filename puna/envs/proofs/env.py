"""proofs: write a program that a prover accepts. `puna env try proofs`.

Files of your own: `puna eval --model URL --env proofs --set env.specs=DIR` (see specs.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Invalid, Outcome, Scored
from puna.envs.proofs import dafny, fast, specs, verus, why3
from puna.envs.proofs.acceptance import DIALECTS, accept, examine
from puna.envs.proofs.cheats import cheats
from puna.envs.proofs.dialect import Spec
from puna.envs.proofs.prover import Prover, Verdict
from puna.gym.environment import Environment, JudgeContext, OneTurn, Session, Verdicts, say
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

MISSING = {
    **{"fast": fast.MISSING, "why3": why3.MISSING},
    **{"dafny": dafny.MISSING, "verus": verus.MISSING},
}
SEEDS = Path(__file__).parent / "seeds"
_FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.S | re.M)
ASKED = {
    "micro-python": (
        "Write the body of this micro-Python function, so that a prover accepts it. Below each "
        "`while` stand `#@ invariant` lines and one `#@ variant`; `#@ assert`, and `#@ label L` "
        "with `at(term, L)`, are allowed too. Use integers, truth values and the given lists, "
        "`if`, `while`, `break`, `continue`, `return` and `len`. "
    ),
    "dafny": "Write the body of this Dafny method, in braces, so that Dafny verifies it. ",
    "verus": "Write the body of this Verus function, in braces, so that Verus verifies it. ",
}
FORM = "Repeat the text to the letter and add the body; answer with the whole program alone."


@dataclass(frozen=True)
class ProofsConfig:
    """Which specifications, and who judges.

    `specs`: a folder of .py (micro-Python), .dfy and .rs files; empty, those that are shipped.
    `prover`: who judges micro-Python: "fast" in process, "why3", or "auto", which is fast where the
    specification is in the small language. `seconds`: of an idle processor, for each proof; what is
    not decided then gets three times as long. `contents`: a hash of the folder; it is filled in,
    and a folder that has another one is refused.
    """

    specs: str = ""
    prover: Literal["auto", "fast", "why3"] = "auto"
    seconds: float = 1.0
    contents: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a time that is none."""
        if not 0.01 <= self.seconds <= 600:
            raise ValueError(f"seconds is {self.seconds}, must be 0.01 to 600")


class Proofs(Environment):
    """Write a function, with its proof, that meets a formal specification.

    As in Propose, Solve, Verify (arXiv 2512.18160): the prover's verdict is the reward, and what it
    could not decide is no verdict (the outcome is Infra), never a 0.
    """

    name: ClassVar[str] = "proofs"
    version: ClassVar[str] = "1.0"
    tier: ClassVar[str] = "worker"
    judge_seconds: ClassVar[float] = 900.0
    Config: ClassVar[type] = ProofsConfig

    def __init__(self, config: ProofsConfig | None = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.folder = Path(self.config.specs) if self.config.specs else SEEDS
        self.specs = specs.read_folder(self.folder)
        here, wanted = specs.contents(self.folder), self.config.contents
        if wanted and wanted != here:
            what = f"{self.folder} has other contents: {here}, not {wanted}"
            raise UserError(what, "give the folder as it was, or leave env.contents out")
        self.config = replace(self.config, contents=here)
        self.has_oracle = all(s.reference for part in self.specs.values() for s in part)
        self.examined: dict[Spec, tuple[Prover, Verdict]] = {}

    @cached_property
    def provers(self) -> Mapping[str, Prover]:
        """By name."""
        return {p.name: p for p in (fast.Fast(), why3.Why3(), dafny.Dafny(), verus.Verus())}

    def count(self, split: str) -> int:
        """As many as there are files."""
        return len(self.specs[split])

    def task(self, split: str, index: int) -> Task:
        """Specification `index` of a split, in the order of the files' names."""
        self._check(split, index)
        spec = self.specs[split][index]
        dialect = DIALECTS[spec.dialect]
        shown = spec.with_body(" ... ") if spec.footer else spec.header
        text = f"{ASKED[spec.dialect]}{FORM}\n\n```{dialect.fence}\n{shown}```"
        tags = {"language": spec.dialect}
        if spec.reference:
            tags["shape"] = "loop" if "while" in spec.reference else "straight"
        return Task(
            id=f"{self.name}/{split}/{index}",
            messages=(Message.user(text),),
            key=spec.header + spec.footer,
            hidden={"spec": spec},
            tags=tags,
        )

    def setup(self) -> None:
        """Raises UserError where a prover that is needed is not installed."""
        languages = {s.dialect for part in self.specs.values() for s in part}
        micro = "fast" if self.config.prover == "auto" else self.config.prover
        for language in sorted(languages):
            name = micro if language == "micro-python" else language
            if not self.provers[name].version():
                what, _, fix = MISSING[name].partition(": ")
                raise UserError(f"{self.name}: {what}", fix)

    def start(self, task: Task, resources: Any, ctx: Any) -> Session:
        """One turn."""
        return OneTurn(task)

    def judge(
        self, episodes: Sequence[Episode], hidden: Mapping[str, Any], ctx: JudgeContext
    ) -> Verdicts:
        """1 where the prover accepts the program, 0 where it refutes it; else no score."""
        spec: Spec = hidden["spec"]
        if spec not in self.examined:  # once: it takes several proofs
            prover = self.prover(spec)
            self.examined[spec] = prover, examine(spec, prover, self.config.seconds)
        prover, examined = self.examined[spec]
        problem = _problem(examined)
        return [{"agent": problem or self._outcome(e, spec, prover)} for e in episodes]

    def prover(self, spec: Spec) -> Prover:
        """Who judges a specification."""
        if spec.dialect != "micro-python":
            return self.provers[spec.dialect]
        if self.config.prover != "auto":
            return self.provers[self.config.prover]
        probe = DIALECTS[spec.dialect].contradiction(spec)
        told = self.provers["fast"].prove(probe, self.config.seconds)
        return self.provers["why3" if told.evidence.startswith(fast.OUTSIDE) else "fast"]

    def _outcome(self, episode: Episode, spec: Spec, prover: Prover) -> Outcome:
        if episode.ended != "done":
            return Scored(0.0, False, evidence="the answer was cut off")
        verdict = accept(spec, program(episode.said()), prover, self.config.seconds)
        if verdict.kind in ("unknown", "failed"):
            return Infra(f"{prover.name}: {verdict}")
        return Scored(float(verdict.kind == "valid"), verdict.kind == "valid", {}, verdict.evidence)

    def oracle(self, task: Task) -> Mapping[str, Script]:
        """Says the reference. Raises NotImplementedError where the file has no body."""
        spec: Spec = task.hidden["spec"]
        if not spec.reference:
            raise NotImplementedError(f"{spec.name} has no reference")
        return {"agent": say(spec.reference)}

    def cheats(self, task: Task) -> Mapping[str, Mapping[str, Script]]:
        """Stubs, words that switch a prover off, and specifications made weaker."""
        return {name: {"agent": say(text)} for name, text in cheats(task.hidden["spec"]).items()}


def _problem(examined: Verdict) -> Outcome | None:
    """Why no episode of a specification can be judged."""
    if examined.kind == "refuted":
        return Invalid(examined.evidence)
    return Infra(str(examined)) if examined.kind == "failed" else None


def program(answer: str) -> str:
    """The program in an answer: the one block between fences, or else all of it."""
    blocks = _FENCE.findall(answer)
    return specs.normal(blocks[0] if len(blocks) == 1 else answer)
