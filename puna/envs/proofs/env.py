"""proofs: write a program that a prover accepts. `puna env try proofs`.

Files of your own: `puna eval --model URL --env proofs --set env.specs=DIR` (see specs.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Invalid, Outcome, Scored
from puna.core.rng import stream
from puna.envs.proofs import dafny, fast, specs, verus, why3, why3_examples
from puna.envs.proofs.acceptance import DIALECTS, Fault, accept, examine
from puna.envs.proofs.cheats import cheats
from puna.envs.proofs.dialect import Spec
from puna.envs.proofs.prover import Prover, Verdict
from puna.gym.environment import Environment, JudgeContext, OneTurn, Session, Verdicts, say
from puna.gym.task import Script, Task
from puna.gym.trajectory import Episode

if TYPE_CHECKING:
    from puna.envs.proofs.propose import ProofProposer
    from puna.gym.audit.findings import Finding

MISSING = {
    **{"fast": fast.MISSING, "why3": why3.MISSING},
    **{"dafny": dafny.MISSING, "verus": verus.MISSING},
}
SEEDS = Path(__file__).parent / "seeds"
# Held out: never trained on, whatever a recipe says.
HELD_OUT = {"humaneval": Path(__file__).parent / "held_out" / "humaneval"}
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

    `specs`: a folder of .py (micro-Python), .dfy and .rs files, one such file, or a .jsonl file of
    proposals; empty, those that are shipped. "humaneval" and "why3-examples" are held-out sets.
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
        self.place = Path(self.config.specs) if self.config.specs else SEEDS
        if self.config.specs == why3_examples.NAME:
            self.place = why3_examples.FOLDER
            self.specs = {"train": (), "test": why3_examples.specifications(self.place)}
        else:
            self.place = HELD_OUT.get(self.config.specs, self.place)
            self.specs = specs.read(self.place)
        here, wanted = specs.contents(self.place), self.config.contents
        if wanted and wanted != here:
            what = f"{self.place} has other contents: {here}, not {wanted}"
            raise UserError(what, "give the folder as it was, or leave env.contents out")
        self.config = replace(self.config, contents=here)
        self.has_oracle = all(s.reference for part in self.specs.values() for s in part)
        self.examined: dict[str, tuple[Prover, Fault | Verdict]] = {}

    @cached_property
    def provers(self) -> Mapping[str, Prover]:
        """By name."""
        return {p.name: p for p in (fast.Fast(), why3.Why3(), dafny.Dafny(), verus.Verus())}

    @cached_property
    def held_out(self) -> frozenset[str]:
        """Keys that nothing may train on: of test splits, and of all that is held out."""
        places = (SEEDS, *HELD_OUT.values())
        found = [spec for place in places for spec in specs.read(place)["test"]]
        if why3_examples.FOLDER.is_dir():
            found += why3_examples.specifications(why3_examples.FOLDER)
        return frozenset(
            specs.canonical(s.header + s.footer) for s in (*found, *self.specs["test"])
        )

    def count(self, split: str) -> int:
        """As many as there are files."""
        return len(self.specs[split])

    def task(self, split: str, index: int) -> Task:
        """Specification `index` of a split, in the order of the files' names."""
        self._check(split, index)
        return self.task_of(self.specs[split][index], f"{self.name}/{split}/{index}")

    def task_of(self, spec: Spec, name: str) -> Task:
        """The task that a specification is, under this name."""
        dialect = DIALECTS[spec.dialect]
        shown = spec.with_body(" ... ") if spec.footer else spec.header
        text = f"{ASKED[spec.dialect]}{FORM}\n\n```{dialect.fence}\n{shown}```"
        tags = {"language": spec.dialect}
        if spec.reference:
            tags["shape"] = "loop" if "while" in spec.reference else "straight"
        return Task(
            id=name,
            messages=(Message.user(text),),
            key=specs.canonical(spec.header + spec.footer),
            hidden={"spec": spec},
            tags=tags,
            admission=spec.admission,
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
        prover, examined = self.examine_spec(spec)
        problem = _problem(examined)
        return [{"agent": problem or self._outcome(e, spec, prover)} for e in episodes]

    def examine_spec(self, spec: Spec) -> tuple[Prover, Fault | Verdict]:
        """Who judges a specification, and what is wrong with it; found once, in several proofs."""
        text = f"{spec.dialect}\n{spec.with_body('...')}"
        if text not in self.examined:
            prover = self.prover(spec)
            self.examined[text] = prover, examine(spec, prover, self.config.seconds)
        return self.examined[text]

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

    def practice(self, index: int) -> Sequence[Message]:
        """An easy program and its proof, or (every second time) a specification proposed."""
        from puna.envs.proofs.propose import practice

        return practice(self, index, stream(self.seed, self.name, "practice", index))

    def proposer(self) -> ProofProposer:
        """Proposes micro-Python."""
        from puna.envs.proofs.propose import ProofProposer

        return ProofProposer(self)

    def examine(self, data: Path) -> Sequence[Finding]:
        """What is wrong with each specification in `data`. Raises UserError where it has none."""
        from puna.envs.proofs.examination import findings

        return findings(self, data)


def _problem(examined: Fault | Verdict) -> Outcome | None:
    """Why no episode of a specification can be judged."""
    if isinstance(examined, Fault):
        return Invalid(examined.what)
    return Infra(str(examined)) if examined.kind == "failed" else None


def program(answer: str) -> str:
    """The program in an answer: the one block between fences, or else all of it."""
    blocks = _FENCE.findall(answer)
    return specs.normal(blocks[0] if len(blocks) == 1 else answer)
