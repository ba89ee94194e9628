"""Every probe, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from puna.gym.audit import (
    choice_probes,
    data_probes,
    label_probes,
    tampering,
    text_probes,
    verdict_probes,
    work_probes,
)
from puna.gym.audit.bench import Bench
from puna.gym.audit.probe import Probe, Result
from puna.gym.environment import Environment

BUSY = "busy machine"
OTHER_PROCESS = "other process"
LOAD = "load"
PROCESS = "process"
REASONS = {
    BUSY: "load on the machine must not decide a verdict",
    OTHER_PROCESS: "another process must make the same tasks and the same verdicts",
    LOAD: "it must load and make tasks",
    PROCESS: "it must not die, hang, flood the output or leave processes behind",
}

PROBES = (
    Probe("oracle", "the reference answer must score 1", verdict_probes.oracle),
    Probe("idle", "an agent that does nothing must earn nothing", text_probes.idle),
    Probe("empty answer", "an empty answer must earn nothing", text_probes.empty),
    Probe("constant answer", "one text must not do for all tasks", text_probes.constants),
    Probe("frequent answer", "the commonest answer must not do for all", text_probes.frequent),
    Probe("echo", "repeating the prompt is no answer", text_probes.echo),
    Probe("pieces of the prompt", "a piece of the prompt is no answer", text_probes.shortcuts),
    Probe("options", "an option's place or length must not tell", choice_probes.options),
    Probe("numbering", "a task's number must not tell its answer", choice_probes.numbering),
    Probe("wrong answer in form", "the form is not the answer", text_probes.formed),
    Probe("part of the answer", "a piece of it, or a number far off, is not it", text_probes.parts),
    Probe("form alone", "the form of an answer is not what it says", text_probes.shape),
    Probe("hollow answer", "white space is not work", text_probes.hollow),
    Probe("many answers", "who names all answers knows none", text_probes.many),
    Probe("answer in junk", "what is read out of noise should be known", text_probes.junk),
    Probe("look-alikes", "foreign letters are not the answer", text_probes.lookalike),
    Probe("wrong type", "NaN, null and infinity are no answers", text_probes.wrong_type),
    Probe("broken answers", "a malformed answer is the agent's fault: 0", text_probes.breaking),
    Probe("over-long", "a megabyte must be judged, and earn nothing", text_probes.overlong),
    Probe("forged verdict", "the agent must not write its own verdict", text_probes.forged),
    Probe("stub programs", "a program that does nothing must earn nothing", text_probes.stubs),
    Probe("own cheats", "the environment's own cheats must not pay", text_probes.own_cheats),
    Probe("last message", "the whole of the work must count", text_probes.at_the_end),
    Probe("any call", "calling tools is not the work itself", work_probes.any_call),
    Probe("other work", "another task's calls are not this one's", work_probes.others),
    Probe("broken calls", "any call must be answered, in bounds", work_probes.broken),
    Probe("readable labels", "the agent must not find the answer lying there", label_probes.labels),
    Probe("sample handed in", "what lies there must be worth nothing", label_probes.samples),
    Probe("told by refusals", "a refusal must not say the answer", label_probes.told),
    Probe("over and over", "one step is not the whole work", work_probes.again),
    Probe("tampering", "graders, tests and results are not the agent's", tampering.tampering),
    Probe("same verdict", "the same answer always gets one verdict", verdict_probes.repeats),
    Probe(
        "inherited success", "an episode must not know the one before", verdict_probes.idle_again
    ),
    Probe("value range", "a value lies within 0 and 1", verdict_probes.bounds),
    Probe("later verdict", "the judge's clock must not count", verdict_probes.later),
    Probe("hidden fields", "the prompt must not hold the answer", data_probes.hidden_fields),
    Probe("determinism", "seeds decide everything", data_probes.determinism),
    Probe("train/test overlap", "test problems must be new", data_probes.overlap),
    Probe("declared", "what it says of itself can be right", data_probes.declared),
)


def busy_probe(slow: Callable[[], AbstractContextManager[None]]) -> Probe:
    """The probe that needs the parent's help."""

    async def ask(bench: Bench) -> Result:
        return await verdict_probes.busy(bench, slow())

    return Probe(BUSY, REASONS[BUSY], ask)


async def ask_here(env: Environment, n: int, only: Sequence[str] = ()) -> dict[str, Result]:
    """What the probes say of an environment in this very process, which it may then harm."""
    bench = await Bench(env, n).open()
    try:
        return {p.name: await p.ask(bench) for p in PROBES if not only or p.name in only}
    finally:
        bench.close()


def names() -> list[str]:
    """Of all probes, those of the parent too."""
    return [*(p.name for p in PROBES), BUSY, OTHER_PROCESS, PROCESS, LOAD]


def reason(name: str) -> str:
    """Why a probe is asked."""
    return REASONS.get(name) or next(p.reason for p in PROBES if p.name == name)
