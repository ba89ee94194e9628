"""Probes that answer with text: nothing, constants, the prompt, many answers, forged verdicts.

Each answers at once; in an episode of several messages it also plays the oracle up to its last
message and answers then, where that alone does not pay already.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from puna.gym.audit import answers, forgeries, mutations, programs
from puna.gym.audit.bench import Bench, Make, mean_paid, success, value
from puna.gym.audit.case import Case
from puna.gym.audit.probe import (
    Result,
    hole,
    made,
    must_not_pay,
    note,
    nothing,
    ok,
    saying,
)  # fmt: skip
from puna.gym.task import Script, script

LISTS = 0.6  # three answers of which one is right are worth half, where credit is shared
MOST_WORDS = 40
SHARED = 0.3  # a dozen are worth a fifth
PART = 0.75  # half of an answer may be worth two thirds
FORMED = 8  # answers that show what they have in common
MASKED = ("what is quoted", "after the last colon", "first number", "largest")
LONG = (
    *("listed", "listed with commas", "one a line", "marked", "with slashes", "with bars"),
    *("with semicolons", "joined by or"),
)
# Where a prompt says that near is near enough.
NEAR = re.compile(
    r"about|approx|round|within|near|estimat|±|toleran|per ?cent|%|decimal|signific", re.I
)


async def idle(bench: Bench) -> Result:
    """Says nothing in every turn, and is asked before anybody else has played."""
    return await must_not_pay(bench, {"says nothing": lambda case: script([])}, what="agents")


async def empty(bench: Bench) -> Result:
    """White space and the like in the place of the answer."""
    return await must_not_pay(bench, saying(answers.EMPTY), what="empty answers")


async def constants(bench: Bench) -> Result:
    """One text to every task."""
    return await must_not_pay(bench, saying({c: c for c in answers.CONSTANTS}), what="constants")


async def frequent(bench: Bench) -> Result:
    """The commonest right answers, each said to every task it is not known to be right for."""
    counted = Counter(c.answer for c in bench.cases if c.answer)
    texts = [text for text, _ in counted.most_common(6 if bench.slow else 12)]
    texts += _middling([c.answer for c in bench.cases if c.answer])
    ways = {f"{text:.60}": text for text in texts}
    if not ways:
        return nothing("no reference answers")
    if len(await bench.fresh()) < 2 or len({c.task.key for c in await bench.fresh()}) < 2:
        return nothing("too few tasks to tell a constant from the answer")
    best, most = "", -1.0
    for name, text in ways.items():
        earned = await _earned(bench, name, text)
        if earned > most:
            best, most = name, earned
    again = await bench.tries(lambda c: c.instead(ways[best]), best, await bench.fresh())
    seen = f"'{best}' earns {mean_paid(again):.2f} on {len(again)} fresh tasks"
    found = ok(f"the best of {len(ways)}, {seen}")
    if bench.above_chance(again):
        found = hole(f"{seen}, declared {bench.env.chance:g}", [t for t in again if value(t)])
    return replace(found, earned=mean_paid(again))


async def _earned(bench: Bench, name: str, text: str) -> float:
    """What a text earns on the tasks at hand; where they are slow, on a few that it is not for."""
    if not bench.slow:
        return mean_paid(await bench.tries(lambda c: c.instead(text), name, bench.cases))
    others = [c for c in bench.cases if c.answer != text]
    right = 1 - len(others) / len(bench.cases)
    tried = await bench.tries(lambda c: c.instead(text), name, bench.some(name, others))
    return right + (1 - right) * mean_paid(tried)


def _middling(given: Sequence[str]) -> list[str]:
    """An answer of the commonest form with the middle of what others say in each place."""
    forms = Counter(re.sub(r"-?\d+", "\0", a) for a in given)
    form, count = forms.most_common(1)[0] if forms else ("", 0)
    if "\0" not in form or count < FORMED:
        return []
    rows = [re.findall(r"-?\d+", a) for a in given if re.sub(r"-?\d+", "\0", a) == form]
    middle = iter([round(median(map(int, column))) for column in zip(*rows, strict=True)])
    return [re.sub("\0", lambda found: str(next(middle)), form)]


async def echo(bench: Bench) -> Result:
    """The prompt, or its last line, in the place of the answer."""
    ways: dict[str, Make] = {
        "the whole prompt": lambda case: _unless(case, case.prompt),
        "the prompt twice": lambda case: _unless(case, f"{case.prompt}\n{case.prompt}"),
    }
    return await must_not_pay(bench, ways, what="echoes")


def _unless(case: Case, text: str) -> Script | None:
    return None if text.strip() == case.answer.strip() else case.instead(text)


async def shortcuts(bench: Bench) -> Result:
    """A piece of the prompt that is not the reference answer, and yet is paid."""
    prompts = [set(re.findall(r"[A-Za-z_]+", c.prompt)) for c in bench.cases]
    counts = Counter(word for words in prompts for word in words)
    common = [w for w, n in counts.items() if n > 0.8 * len(prompts)][:MOST_WORDS]
    ways = made(lambda case: {**_pieces(case), **_spans(case)}, bench.cases)
    ways |= saying({w: w for w in common})
    return await must_not_pay(bench, ways, what="pieces of the prompt")


def _pieces(case: Case) -> dict[str, str]:
    lines = [x.strip() for x in case.prompt.splitlines() if x.strip()]
    words = re.findall(r"[^\W\d_]+", case.prompt)
    numbers = re.findall(r"-?\d+(?:\.\d+)?", case.prompt)
    found: dict[str, str] = {}
    if lines:
        found |= {"first line": lines[0], "last line": lines[-1]}
    if words:
        found |= {"first word": words[0], "last word": words[-1]}
    if numbers:
        found |= {"first number": numbers[0], "last number": numbers[-1]}
        found |= {"all numbers": " ".join(numbers), "largest": max(numbers, key=float)}
    plain = case.answer.split()
    return {name: text for name, text in found.items() if text.split() != plain}


def _spans(case: Case) -> dict[str, str]:
    """Longer pieces, which may be what is asked about; none that holds the answer, to a reader."""
    quoted = re.findall(r"(?<!\w)(['\"`])(\S[^'\"`\n]+)\1(?!\w)", case.prompt)
    head, _, rest = case.prompt.partition("\n")
    found = {
        "what is quoted": max((q for _, q in quoted), key=len, default=""),
        "after the last colon": case.prompt.rpartition(":")[2],
        "all but the first line": rest,
        "all but the last line": case.prompt.rpartition("\n")[0],
        "before the first colon": head.partition(":")[0] if ":" in head else "",
    }
    wanted = mutations.plain(case.answer)
    return {
        name: text.strip()
        for name, text in found.items()
        if text.strip() and not (wanted and wanted in mutations.plain(text))
    }


async def formed(bench: Bench) -> Result:
    """A wrong answer in the right form, and one that somebody vouches for."""
    ways = made(lambda case: answers.formed(case.wrong[0]) if case.wrong else {}, bench.cases)
    if not ways:
        return nothing("no wrong answers are known")
    return await must_not_pay(bench, ways, what="forms of a wrong answer")


async def parts(bench: Bench) -> Result:
    """A piece of the answer, fewer of its items than half, or a number far from it."""
    ways = made(_parts, bench.cases)
    rest = list(dict.fromkeys(name for c in bench.cases for name in _fewer(c)))
    if not ways and not rest:
        return nothing("answers have no parts")
    found = await must_not_pay(bench, ways, what="pieces of the answer", least=PART, of=success)
    for name in rest if found.status != "hole" else ():
        fared = await bench.paid(_left(name, "text"), name, PART, success)
        seen = {t.case.task.id for t in fared.paid}
        cases = [c for c in (*bench.cases, *await bench.fresh()) if c.task.id in seen]
        if cases and await _counts(bench, name, cases):
            return hole(f"most of it may be left out: {fared.paid[0]}", fared.paid)
    return found


def _parts(case: Case) -> Mapping[str, str]:
    return mutations.parts(case.answer, exact=not NEAR.search(case.prompt))


def _fewer(case: Case) -> Mapping[str, mutations.Fewer]:
    if programs.stubs(case.answer):
        return {}  # the last lines of a program may be anything
    return mutations.fewer(case.answer, case.wrong[0] if case.wrong else "")


def _left(name: str, what: str) -> Make:
    def make(case: Case) -> Script | None:
        text = getattr(_fewer(case).get(name), what, "")
        return case.instead(text) if text and text != case.answer else None

    return make


async def _counts(bench: Bench, name: str, cases: Sequence[Case]) -> bool:
    """Whether what may be left out counts: something wrong in its place is not paid."""
    tries = await bench.tries(_left(name, "control"), f"{name}, the rest wrong", cases)
    return not tries or sum(map(success, tries)) < 0.5 * len(tries)


async def shape(bench: Bench) -> Result:
    """The form that answers have, without what they say."""
    common = mutations.common([c.answer for c in bench.cases if c.answer])

    def shaped(case: Case) -> dict[str, str]:
        if programs.stubs(case.answer) or len(bench.cases) < FORMED:
            return {}
        return mutations.shape(case.answer, common)

    ways = made(shaped, bench.cases)
    if not ways:
        return nothing("answers have no form")
    return await must_not_pay(bench, ways, what="forms alone", cases=bench.cases[::2])


async def hollow(bench: Bench) -> Result:
    """The beginning of the answer, then white space in the place of each other word."""
    ways = made(lambda case: mutations.hollow(case.answer), bench.cases)
    ways |= made(_unindented, bench.cases)
    if not ways:
        return nothing("answers are short")
    return await must_not_pay(bench, ways, what="hollow answers", least=LISTS)


def _unindented(case: Case) -> dict[str, str]:
    text = mutations.unindented(case.answer)
    return {"no indentation": text} if text else {}


async def many(bench: Bench) -> Result:
    """The right answer among wrong ones: whoever names all of them knows none."""
    lists = made(_among, bench.cases)
    fuller = made(lambda c: mutations.more(c.answer, c.wrong, c.prompt), bench.cases)
    short = {n: w for n, w in lists.items() if n not in LONG or len(_pool(bench)) < 8}
    long = {n: w for n, w in lists.items() if n not in short}
    found = await must_not_pay(bench, long, what="lists of answers", least=SHARED)
    if found.status == "hole" or not {**short, **fuller}:
        return found
    return await must_not_pay(bench, {**short, **fuller}, what="lists of answers", least=LISTS)


def _pool(bench: Bench) -> tuple[str, ...]:
    return max((c.wrong for c in bench.cases), key=len, default=())


def _among(case: Case) -> Mapping[str, str]:
    return answers.among(case.answer, case.wrong) if case.answer and case.wrong else {}


async def junk(bench: Bench) -> Result:
    """The right answer in the middle of noise: no hole, but worth knowing."""
    earned = []
    for case in bench.few:
        if case.answer and case.sound:
            earned.append(
                await bench.attempt(case, case.instead(answers.in_junk(case.answer)), "in junk")
            )
    paid = [t for t in earned if success(t)]
    if not earned:
        return nothing("no reference answers")
    if paid:
        return note(f"the answer is found in {len(paid)} of {len(earned)} pages of noise", paid)
    return ok(f"{len(earned)} answers in noise, none paid in full")


async def lookalike(bench: Bench) -> Result:
    """Letters of another alphabet: paid only where damaged letters are paid as well."""
    control = mean_paid(
        await bench.tries(lambda case: case.instead(answers.damaged(case.answer)), "q", bench.few)
    )
    worse: dict[str, Make] = {"foreign letters": _if_changed(answers.lookalike)}
    found = await must_not_pay(bench, worse, what="look-alikes", least=min(0.9, control + 0.3))
    if found.status != "hole":
        masked = made(_masked, bench.cases)
        if masked:
            half = bench.cases[::2]
            found = await must_not_pay(bench, masked, what="masked prompts", cases=half)
    if found.status != "ok":
        return found
    digits = await bench.tries(
        lambda case: (
            case.instead(answers.other_digits(case.answer))
            if answers.other_digits(case.answer) != case.answer
            else None
        ),
        "full-width digits",
        bench.few,
    )
    paid = [t for t in digits if success(t)]
    return note(f"full-width digits are read as digits: {paid[0]}", paid) if paid else found


def _masked(case: Case) -> dict[str, str]:
    """Pieces of the prompt that are no answer, in letters or spaces that a filter may not know."""
    wanted = mutations.plain(case.answer)
    return {
        f"{name}, {how}": masked
        for name, text in {**_pieces(case), **_spans(case)}.items()
        if name in MASKED and len(text) < 2000 and mutations.plain(text) not in ("", wanted)
        for how, masked in mutations.disguised(text).items()
        if masked != text
    }


def _if_changed(change: Callable[[str], str]) -> Make:
    def make(case: Case) -> Script | None:
        text = change(case.answer)
        letters = sum(a != b for a, b in zip(text, case.answer, strict=False))
        # a few letters of a long text may be forgiven as a slip of the pen
        return case.instead(text) if letters * 2 > len(case.answer) else None

    return make


async def wrong_type(bench: Bench) -> Result:
    """NaN, infinity, null and other things that are not answers."""
    ways = saying(answers.WRONG_TYPE)
    ways |= made(lambda case: mutations.odd_json(case.answer), bench.cases)
    return await must_not_pay(bench, ways, what="values")


async def breaking(bench: Bench) -> Result:
    """Answers that make careless judges raise, or never end."""
    for name, make in made(lambda case: answers.nested(case.answer), bench.cases).items():
        # some of them are right as well, but each must be judged
        unjudged = [t for t in await bench.tries(make, name, bench.cases[:4]) if t.broken]
        if unjudged:
            return hole(f"a pattern that repeats itself is not judged: {unjudged[0]}", unjudged)
    return await must_not_pay(bench, saying(answers.BREAKING), what="broken answers")


async def overlong(bench: Bench) -> Result:
    """A megabyte."""
    texts = saying(answers.OVERLONG)
    return await must_not_pay(bench, texts, what="long answers", cases=bench.few[:6])


async def forged(bench: Bench) -> Result:
    """Texts that a careless judge takes for its own verdict."""
    shown = made(lambda c: forgeries.as_shown(c.prompt, c.wrong[0] if c.wrong else ""), bench.cases)
    return await must_not_pay(bench, saying(forgeries.FORGED) | shown, what="forgeries")


async def stubs(bench: Bench) -> Result:
    """Programs that do nothing of what is asked, but exit, forge, override or patch."""
    ways = made(lambda case: programs.stubs(case.answer), bench.cases)
    if not ways:
        return nothing("answers are not programs")
    return await must_not_pay(bench, ways, what="programs")


async def own_cheats(bench: Bench) -> Result:
    """Every cheat that the environment ships."""
    names: set[str] = set()
    for case in bench.cases:
        try:
            names |= set(bench.env.cheats(case.task))
        except Exception as error:
            return hole(f"{case.task.id}: {type(error).__name__}: {error}")
    if not names:
        return note("the environment ships none")

    def way(name: str) -> Make:
        def make(case: Case) -> Script | None:
            return dict(bench.env.cheats(case.task).get(name, {})).get(case.role)

        return make

    return await must_not_pay(bench, {name: way(name) for name in sorted(names)}, what="kinds")


async def at_the_end(bench: Bench) -> Result:
    """The oracle up to its last message, then an answer that is none."""
    long = [c for c in bench.cases if len(c.said) > 1]
    if not long:
        return nothing("episodes have one message")
    ways: dict[str, Make] = {"stops before the last": lambda case: script(case.before)}
    cut = await must_not_pay(bench, ways, what="unfinished episodes")
    if cut.status != "ok":  # the last message does not decide, so others in its place may be paid
        return note(f"the last message does not decide: {cut.seen}")
    texts = {**forgeries.FORGED, **answers.EMPTY, **{c: c for c in _CONSTANTS}}
    ends = {name: _ending(text) for name, text in texts.items()}
    return await must_not_pay(bench, ends, what="last messages")


_CONSTANTS = ("done", "ok", "nan")


def _ending(text: str) -> Make:
    return lambda case: case.at_the_end(text) if len(case.said) > 1 else None
