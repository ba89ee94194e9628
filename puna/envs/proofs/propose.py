"""Proposes specifications: out of a policy's answers, or out of a grammar where no policy is.

`ProofProposer(env).draw(0, seed=0)`; `puna propose proofs -n 100 --out FILE` does many. The checks
are those of Propose, Solve, Verify (arXiv 2512.18160), and those that it lacks: a specification
must be satisfiable, must speak of its result, and no stub may meet it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.rng import stream
from puna.envs.proofs import grammar, specs, terms
from puna.envs.proofs.acceptance import MICRO_PYTHON, Fault
from puna.envs.proofs.dialect import Spec, SpecError, body_of
from puna.envs.proofs.env import Proofs, program
from puna.envs.proofs.fast import OUTSIDE
from puna.envs.proofs.language import Function, parse
from puna.envs.proofs.running import broken, mutations
from puna.envs.proofs.terms import LanguageError, Term
from puna.gym.environment import say
from puna.gym.proposer import CLASSES, Draft, UnfitError, Wanted
from puna.gym.task import Task
from puna.gym.trajectory import Episode

LONGEST = 1_500  # characters of a specification
MOST_PARAMETERS, MOST_LINES, DEEPEST, MUTANTS = 6, 10, 2, 3
# What practice solves: no loops but one kind, so that a loop's annotations have been seen.
EASY = (*(name for name, level in grammar.LEVEL.items() if level < 2), "steps")
ASKED = (
    "Write a new specification in micro-Python: a `def` line, then `#@ requires` and `#@ ensures`, "
    "and no body."
)
_DEF = re.compile(r"def +(\w+)")
_LINE = re.compile(r" +#@ *((?:requires|ensures)\b[^#]*)")


class ProofProposer:
    """Drafts of micro-Python specifications in the small language, for an environment of proofs."""

    def __init__(self, env: Proofs) -> None:
        self.env = env

    def known(self) -> set[str]:
        """Keys of what is no new problem: the train tasks, and all that is held out."""
        train = (self.env.task("train", i) for i in range(self.env.count("train")))
        return {task.key for task in train} | self.env.held_out

    def ask(self, wanted: Wanted) -> tuple[Message, ...]:
        """The examples, each under its class, and the class of the one to write.

        Raises UserError where an example is in another language.
        """
        parts = [ASKED]
        for task, label in wanted.examples:
            spec: Spec = task.hidden["spec"]
            if spec.dialect != MICRO_PYTHON.name:
                fix = "propose from micro-Python specifications"
                raise UserError(f"{spec.name} is in {spec.dialect}", fix)
            parts.append((f"{label}:\n" if label else "") + spec.header.strip("\n"))
        parts.append(f"{wanted.target}:" if wanted.target else "new:")
        return (Message.user("\n\n".join(parts)),)

    def draft(self, answer: str, number: int) -> Draft:
        """What an answer proposes. Raises UnfitError."""
        return self._checked(cleaned(program(answer)), number, {"source": "policy"})

    def draw(self, number: int, seed: int) -> Draft:
        """Drawn from the grammar, with the program that belongs to it. Raises UnfitError."""
        drawn = grammar.draw(stream(seed, "grammar", number))
        where = {"source": "grammar", "scheme": drawn.scheme}
        return self._with(self._checked(drawn.header, number, where), drawn.header + drawn.body)

    def solved(self, draft: Draft, episode: Episode) -> Draft:
        """The draft with the program that an episode handed in as its reference."""
        return self._with(draft, program(episode.said()))

    def plausible(self, task: Task, episode: Episode) -> bool:
        """Whether it is a program in the small language with the specification before it."""
        text = program(episode.said())
        if MICRO_PYTHON.refusal(task.hidden["spec"], text):
            return False
        try:
            parse(text)
        except (LanguageError, RecursionError):
            return False
        return True

    def to_json(self, draft: Draft) -> Mapping[str, Any]:
        """The program or the specification, and where it comes from."""
        spec: Spec = draft.task.hidden["spec"]
        about = {"id": draft.task.id, "provenance": dict(draft.provenance)}
        return {**specs.to_record(spec), **about}

    def from_json(self, data: Mapping[str, Any]) -> Draft:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        spec = specs.of_record(data)
        where: Mapping[str, Any] = data["provenance"]
        bare = replace(spec, reference="")
        draft = Draft(self.env.task_of(bare, str(data["id"])), provenance=where)
        return self._with(draft, spec.reference) if spec.reference else draft

    def _checked(self, header: str, number: int, where: Mapping[str, Any]) -> Draft:
        """Raises UnfitError where the environment's prover has something against it."""
        spec = well_formed(header)
        prover, found = self.env.examine_spec(spec)
        if isinstance(found, Fault):
            raise UnfitError(found.kind, found.what)
        if found.kind != "valid":
            raise UnfitError("not judged", str(found))
        holds = prover.prove(MICRO_PYTHON.contradiction(spec), self.env.config.seconds)
        if holds.kind != "refuted":
            raise UnfitError("not seen to be satisfiable", str(holds))
        return Draft(self.env.task_of(spec, f"proofs/proposed/{number}"), provenance=where)

    def _with(self, draft: Draft, text: str) -> Draft:
        spec: Spec = replace(draft.task.hidden["spec"], reference=text)
        wrong = {name: {"agent": say(mutant)} for name, mutant in mutants(spec)}
        task = self.env.task_of(spec, draft.task.id)
        return replace(draft, task=task, reference={"agent": say(text)}, mutants=wrong)


def cleaned(text: str) -> str:
    """The last `def` of a text with its `#@ requires` and `#@ ensures`, and nothing else of it.

    Raises UnfitError where there is no `def`.
    """
    if len(text) > specs.LARGEST:
        raise UnfitError("too large", f"{len(text):,} characters")
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _DEF.match(line)]
    if not starts:
        raise UnfitError("not well-formed", "no line starts with `def`")
    head, kept = lines[starts[-1]].rstrip(), []
    for line in lines[starts[-1] + 1 :]:
        if match := _LINE.match(line):
            kept.append(f"    #@ {match.group(1).rstrip()}")
        elif line.strip() and not re.match(r" *#(?!@)", line):
            break
    return "\n".join([head, *kept]) + "\n"


def well_formed(header: str) -> Spec:
    """The specification that `header` is. Raises UnfitError where it is none, or not a useful one.

    It must be in the small language, of bounded size, and promise something of its result, or of
    the elements of a list where it has none.
    """
    if len(header) > LONGEST or header.count("\n") > MOST_LINES + 1:
        raise UnfitError("too large", f"{len(header):,} characters, {header.count(chr(10))} lines")
    try:
        match = _DEF.match(header)
        spec = MICRO_PYTHON.spec(match.group(1) if match else "", header)
        function = parse(MICRO_PYTHON.contradiction(spec))
    except (SpecError, LanguageError) as error:
        raise UnfitError("not well-formed", str(error).removeprefix(OUTSIDE)) from None
    except RecursionError:
        raise UnfitError("not well-formed", "it nests too deep") from None
    if len(function.params) > MOST_PARAMETERS:
        raise UnfitError("too large", f"{len(function.params)} parameters")
    said = [term for _, term in (*function.requires, *function.ensures)]
    if max(map(_depth, said)) > DEEPEST:
        raise UnfitError("too large", f"quantifiers in more than {DEEPEST} others")
    if not any(_speaks(term, function) for _, term in function.ensures):
        raise UnfitError("nothing is promised of what it gives")
    return spec


def _inner(term: Term) -> Iterator[Term]:
    for field in fields(term):
        value = getattr(term, field.name)
        if isinstance(value, Term):
            yield value


def _depth(term: Term) -> int:
    below = max(map(_depth, _inner(term)), default=0)
    return below + isinstance(term, terms.Quantified)


def _speaks(term: Term, function: Function) -> bool:
    """Whether a promise mentions the result, or an element of a list as it is in the end."""
    match term:
        case terms.Name(name="result"):
            return True
        case terms.Index() if not function.result:
            return True
        case terms.Then() if not function.result:
            return False
    return any(_speaks(inner, function) for inner in _inner(term))


def mutants(spec: Spec) -> Iterator[tuple[str, str]]:
    """One-operator variants of the reference that break their promise when they are run."""
    body = body_of(spec, spec.reference)
    if body is None:
        return
    rng = random.Random(0)
    some = list(dict.fromkeys(mutations(body)))
    rng.shuffle(some)
    found = 0
    for text in (spec.with_body(mutant) for mutant in some):
        try:
            how = broken(parse(text), rng)
        except (LanguageError, RecursionError):
            continue
        if how:
            found += 1
            yield f"mutant {found}, which {how}", text
        if found == MUTANTS:
            return


def practice(env: Proofs, index: int, rng: np.random.Generator) -> Sequence[Message]:
    """Conversation `index`: an easy program by turns with a proposal among examples.

    The class of an example is here how much proof its scheme takes; what a class really means for
    a solver is learned from its pass rates later.
    """
    if index % 2 == 0:
        drawn = _drawn(env, rng, EASY)
        task = env.task_of(_spec(drawn), f"proofs/practice/{index}")
        return (*task.messages, Message.assistant(drawn.header + drawn.body))
    shown = [_drawn(env, rng) for _ in range(int(rng.integers(1, 5)))]
    last = _drawn(env, rng)
    target = CLASSES[grammar.LEVEL[last.scheme]]
    asked = Wanted(target, tuple(_example(env, shown)))
    return (*ProofProposer(env).ask(asked), Message.assistant(last.header))


def _drawn(env: Proofs, rng: np.random.Generator, schemes: Sequence[str] = ()) -> grammar.Drawn:
    """The first draw that is not held out."""
    while True:
        drawn = grammar.draw(rng, schemes)
        if specs.canonical(drawn.header) not in env.held_out:
            return drawn


def _example(env: Proofs, shown: Iterable[grammar.Drawn]) -> Iterator[tuple[Task, str]]:
    for drawn in shown:
        yield env.task_of(_spec(drawn), "shown"), CLASSES[grammar.LEVEL[drawn.scheme]]


def _spec(drawn: grammar.Drawn) -> Spec:
    return MICRO_PYTHON.spec(drawn.scheme, drawn.header)
