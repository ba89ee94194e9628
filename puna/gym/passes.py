"""One answer of several messages: solutions, each with the solver's own verdict on it (SPOC).

`read_pass("#### 7\\nIs this correct? Yes", turns=3, answered=bool).stopped` is "yes". Zhao et al.
2025 (arXiv 2506.06923): solver and verifier are one model and take turns within one answer; an
episode ends on the first verdict Yes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from puna.core.outcome import Credit, Scored

QUESTION = "Is this correct?"
STOP = (f"{QUESTION} Yes",)
FORM = f"""Behind a solution say on a line of its own whether it is right: "{QUESTION} Yes" or \
"{QUESTION} No". Before that line there may be a critique of at most two sentences between \
<reflect> and </reflect>. Behind No write another solution, behind Yes nothing."""

# A critique if there is one, and the line with the verdict; two verdicts are none.
VERIFICATION = re.compile(
    r"(?:<reflect>(?:(?!</?reflect>).)*</reflect>\s*\n)?"
    + re.escape(QUESTION)
    + r" (?P<verdict>Yes|No)(?=[ \t\r]*(?:\n|\Z))",
    re.DOTALL,
)

SOLVER, VERIFIER = "solver", "verifier"


@dataclass(frozen=True)
class Said:
    """One message of an answer: the characters `start` to `end`, of `turn` (from 1).

    `verdict` is a verifier's, None where there is no well-formed one.
    """

    role: str
    turn: int
    start: int
    end: int
    verdict: bool | None = None

    @property
    def name(self) -> str:
        """What it is compared under."""
        return f"{self.role} {self.turn}"


@dataclass(frozen=True)
class Pass:
    """The messages of an answer up to where it stopped, what follows being none of its own.

    `stopped`: "yes" on that verdict; "no": the last one was No and nothing follows; "missing": the
    last solution has no verdict; "malformed": no verdict in form, or one inside a solution;
    "repeated": a solution that was said before; "turns": more solutions than allowed.
    """

    messages: tuple[Said, ...]
    stopped: str

    def of(self, role: str) -> list[Said]:
        """The messages of one role."""
        return [m for m in self.messages if m.role == role]


def read_pass(text: str, turns: int, answered: Callable[[str], bool]) -> Pass:
    """The messages of any text, of at most `turns` solutions.

    `answered` says whether a solution holds a final answer; a verdict on one that holds none stands
    inside it.
    """
    messages: list[Said] = []
    earlier: set[str] = set()
    at = 0
    for turn in range(1, turns + 1):
        asked = text.find(QUESTION, at)
        end = len(text) if asked < 0 else asked
        critique = text.find("<reflect>", at, end)
        begun = end if critique < 0 else critique
        solution = text[at:begun]
        if asked < 0 and turn > 1 and not text[at:].strip():
            return Pass(tuple(messages), "no")
        messages.append(Said(SOLVER, turn, at, begun))
        if asked < 0:  # an empty message too: who ends an answer there has left it out
            return Pass((*messages, Said(VERIFIER, turn, begun, end)), "missing")
        found = VERIFICATION.match(text, begun)
        own_line = begun > at and text[begun - 1] == "\n"
        if not found or found.start("verdict") != asked + len(QUESTION) + 1 or not own_line:
            return Pass((*messages, _broken(text, turn, begun, asked)), "malformed")
        if not answered(solution):
            return Pass((*messages, _broken(text, turn, begun, asked)), "malformed")
        words = " ".join(solution.split())
        if words in earlier:
            return Pass((*messages, Said(VERIFIER, turn, begun, found.end())), "repeated")
        earlier.add(words)
        at, yes = found.end(), found["verdict"] == "Yes"
        messages.append(Said(VERIFIER, turn, begun, at, yes))
        if yes:
            return Pass(tuple(messages), "yes")
    return Pass(tuple(messages), "turns" if text[at:].strip() else "no")


def _broken(text: str, turn: int, begun: int, asked: int) -> Said:
    """A verification without a verdict, up to the end of the line that asks for it."""
    line_end = text.find("\n", asked)
    return Said(VERIFIER, turn, begun, len(text) if line_end < 0 else line_end)


Rewards = Callable[[Sequence[bool], bool], list[float]]
"""Whether each solution is right, whether the answer ends on a right one -> what each earns."""


def _corr(rights: Sequence[bool], final: bool) -> list[float]:
    return [float(right) for right in rights]


def _last(rights: Sequence[bool], final: bool) -> list[float]:
    return [float(final)] * len(rights)


def _all(rights: Sequence[bool], final: bool) -> list[float]:
    return [float(right and final) for right in rights]


REWARDS: Mapping[str, Rewards] = {"corr": _corr, "last": _last, "all": _all}
"""What solutions earn: their own correctness; the last one's; their own where the last is right."""


def judge_pass(
    text: str,
    cut: bool,
    right: Callable[[str], bool],
    answered: Callable[[str], bool],
    *,
    turns: int,
    rewards: str,
) -> Scored:
    """Judge an answer of several messages: its value is 1 where its last solution is right.

    `cut` says that it was cut off at its end: a message that has none is wrong then. Where another
    final answer follows what was read, that has to be right too. A verdict earns 1 where it is what
    `right` says of its solution; one that is missing, malformed, on a repeated solution, or
    followed by more solutions than `turns`, earns nothing; nor does a solution that is missing
    behind a No. The parts "solution 1" and "verdict 1" are 1 for right and for yes.
    """
    found = read_pass(text, turns, answered)
    open_end = cut and found.stopped in ("missing", "no")
    solutions = found.of(SOLVER)
    rights = [right(text[m.start : m.end]) for m in solutions]
    unfinished = found.messages[-1].start == found.messages[-1].end
    if open_end and found.stopped == "missing" and unfinished:
        rights[-1] = False  # who knows how the solution would have ended
    rest = text[found.messages[-1].end :]
    final = rights[-1] and not open_end and (not answered(rest) or right(rest))
    earned = REWARDS[rewards](rights, final)
    parts: dict[str, float] = {}
    credits: list[Credit] = []
    for message in found.messages:
        if message.role == SOLVER:
            parts[f"solution {message.turn}"] = float(rights[message.turn - 1])
            reward = earned[message.turn - 1]
        else:
            agrees = message.verdict is not None and message.verdict == rights[message.turn - 1]
            exceeds = found.stopped == "turns" and message.turn == turns
            if message.verdict is not None:
                parts[f"verdict {message.turn}"] = float(message.verdict)
            reward = float(agrees and not exceeds)
        credits.append(Credit(message.name, message.start, message.end, reward))
    if found.stopped == "no" and len(solutions) < turns:
        begun = found.messages[-1].end
        credits.append(Credit(f"{SOLVER} {len(solutions) + 1}", begun, len(text), 0.0))
    stopped = "cut off" if open_end else found.stopped
    return Scored(float(final), final, parts, f"stopped: {stopped}", tuple(credits))
