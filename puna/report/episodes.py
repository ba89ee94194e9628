"""What the models said: tasks that flipped between stages, sample episodes, generated text.

`flips(run)` -> markup. Everything here was written by models and tasks, and is shown as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from puna.core.journal import read
from puna.report.markup import Html, clip, count, details, join, number, section, tag
from puna.report.read import Exam, Run, Stage, episodes, mapping, sequence
from puna.report.tables import judged

Record = Mapping[str, Any]
Pairs = list[tuple[Record, Record]]
SAMPLES = 4
STEPS = 8


def flips(run: Run) -> Html:
    """A task that an earlier stage failed and a later one solved, and one the other way."""
    # The last stage against the one before it says most; earlier pairs serve where it has none.
    order = sorted(combinations(range(len(run.exams)), 2), key=lambda p: (-p[1], -p[0]))
    other = Html("")
    for a, b in ((run.exams[i], run.exams[j]) for i, j in order):
        if (a.eval, a.env) == (b.eval, b.env):
            better, worse, n = flipped(a.journal, b.journal)
            if better:
                return _flip_section(a, b, better, worse, n)
            if worse and not other:
                other = _flip_section(a, b, better, worse, n)
    return other


def flipped(a: Path, b: Path) -> tuple[Pairs, Pairs, int]:
    """Pairs of records of tasks failed in `a` and solved in `b`, the reverse, and common tasks.

    Failed: no scored episode succeeded; solved: every one did. Unscored tasks are left out.
    """
    before, after = ({str(r.get("task")): r for r in episodes(p, "index")} for p in (a, b))
    common = [t for t in before if t in after]
    marks = {t: (solved(before[t]), solved(after[t])) for t in common}

    def those(*wanted: bool) -> Pairs:
        pairs: Pairs = [(before[t], after[t]) for t in common if marks[t] == wanted]
        return sorted(pairs, key=lambda pair: not (said(pair[0]) and said(pair[1])))

    return those(False, True), those(True, False), len(common)


def solved(record: Record) -> bool | None:
    """Whether every scored episode of a task succeeded, False where none did, else None."""
    verdicts = map(_first, sequence(record.get("outcomes")))
    marks = {bool(v.get("success")) for v in verdicts if v.get("kind") == "scored"}
    return marks.pop() if len(marks) == 1 else None


def said(record: Record) -> str:
    """The last thing anybody but the environment said in the first episode."""
    transcripts = sequence(record.get("transcripts"))
    spoken = [m for m in sequence(transcripts[0] if transcripts else ()) if _speaker(m) != "env"]
    return text_of(spoken[-1]) if spoken else ""


def _flip_section(a: Exam, b: Exam, better: Pairs, worse: Pairs, n: int) -> Html:
    note = (
        f"{a.env}: of {n:,} tasks, {len(better):,} were failed by {a.stage} and solved by "
        f"{b.stage}; {len(worse):,} the other way."
    )
    parts: list[Html] = []
    for pairs, words in ((better, ("Failed", "solved")), (worse, ("Solved", "failed"))):
        if pairs:
            title = f"{words[0]} by {a.stage}, {words[1]} by {b.stage}"
            parts += [tag("h3", title), _side_by_side(a, b, pairs[0])]
    return section("One task that flipped", *parts, note=note)


def _side_by_side(a: Exam, b: Exam, pair: tuple[Record, Record]) -> Html:
    opening = _first_episode(pair[0])[0]
    sides = []
    for exam, record in zip((a, b), pair, strict=True):
        rest, outcome = _first_episode(record)[1:]
        label = tag("p", tag("strong", exam.stage), " ", verdict(outcome))
        sides.append(tag("div", label, messages(rest)))
    return join((messages(opening), tag("div", *sides, class_="sides")))


def _first_episode(record: Record) -> tuple[list[Any], list[Any], Record]:
    """The environment's opening, what followed, and the outcome."""
    transcripts, outcomes = (sequence(record.get(k)) for k in ("transcripts", "outcomes"))
    told = list(sequence(transcripts[0])) if transcripts else []
    cut = next((i for i, m in enumerate(told) if _speaker(m) != "env"), len(told))
    return told[:cut], told[cut:], _first(outcomes[0]) if outcomes else {}


def _first(outcomes: object) -> Record:
    return mapping(next(iter(mapping(outcomes).values()), None))


def _speaker(message: object) -> str:
    return str(mapping(message).get("speaker", ""))


def verdict(outcome: Record) -> Html:
    """An outcome in words."""
    kind = str(outcome.get("kind", ""))
    if kind == "scored":
        word, tone = ("solved", "good") if outcome.get("success") else ("failed", "bad")
        value = number(outcome.get("value"))
        told = "–" if value is None else f"{value:g}"
        if outcome.get("evidence"):
            told += f", {clip(str(outcome['evidence']), 200)}"
        return join((tag("span", word, class_=tone), f" (value {told})"))
    reason = outcome.get("reason") or outcome.get("error") or ""
    return judged(clip(f"not scored, {kind or 'no outcome'}: {reason}", 300))


def messages(told: Sequence[Any]) -> Html:
    """Messages one beneath another, each under the name of its speaker."""
    out = []
    for message in told:
        role = str(mapping(message).get("role", ""))
        who = role if _speaker(message) == "env" else _speaker(message) or role
        text = text_of(message)
        body = tag("pre", clip(text)) if text else tag("pre", "(empty)", class_="soft")
        out += [tag("p", who, class_="who"), body]
    return join(out)


def text_of(message: object) -> str:
    """A message's parts as text; tool traffic and images are named."""
    return "\n".join(_part(mapping(p)) for p in sequence(mapping(message).get("parts")))


def _part(part: Record) -> str:
    match part.get("kind"):
        case "tool_call":
            return f"[calls {part.get('name')}] {part.get('arguments')}"
        case "tool_result":
            inner = "\n".join(_part(mapping(p)) for p in sequence(part.get("parts")))
            return f"[{'error' if part.get('is_error') else 'result'}] {inner}"
        case "image":
            return f"[image {part.get('mime')} {str(part.get('sha256'))[:12]}]"
        case "reasoning":
            return f"[thinks] {part.get('text')}"
    return str(part.get("text", ""))


def sample_episodes(run: Run) -> Html:
    """A few episodes of every rl stage and every evaluated stage (of its first seed), folded."""
    parts: list[Html] = []
    first = {stages[0].id for stages in run.groups().values()}
    for stage in (s for s in run.stages if s.id in first):
        found = spread(episodes(stage.dir / "episodes.jsonl", "step", "task", "sample"), SAMPLES)
        if found:
            parts += [tag("h3", f"{stage.id}, while training"), *map(_trained, found)]
    for exam in (e for e in run.exams if e.eval in first):
        found = spread(episodes(exam.journal, "index"), SAMPLES)
        if found:
            title = f"{exam.stage} on {exam.env}, by {exam.eval}"
            parts += [tag("h3", title), *map(_judged, found)]
    return section("Sample episodes", *parts, note="Spread evenly over the stage, not chosen.")


def _trained(record: Record) -> Html:
    title = join((f"step {count(number(record.get('step')))}, task ", record.get("task", ""), ": "))
    told = sequence(record.get("transcript"))
    return details(join((title, verdict(_first(record.get("outcomes"))))), messages(told))


def _judged(record: Record) -> Html:
    opening, rest, outcome = _first_episode(record)
    title = join(("task ", record.get("task", ""), ": ", verdict(outcome)))
    return details(title, messages([*opening, *rest]))


def spread(found: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spaced, first and last among them."""
    if len(found) <= most:
        return list(found)
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def text_samples(run: Run) -> Html:
    """What each pretrained model wrote after its prompts as training went on."""
    parts: list[Html] = []
    for stage in run.stages:
        by_prompt = _by_prompt(stage)
        if by_prompt:
            parts.append(tag("h3", stage.id))
        for i, (prompt, texts) in enumerate(by_prompt.items()):
            body = [_continued(prompt, step, texts[step]) for step in spread(list(texts), STEPS)]
            parts.append(details(join(("after ", tag("code", prompt))), *body, open_=i == 0))
    return section("What it wrote as it learned", *parts)


def _by_prompt(stage: Stage) -> dict[str, dict[Any, str]]:
    out: dict[str, dict[Any, str]] = {}
    for record in read(stage.dir / "samples.jsonl"):
        if number(record.get("step")) is not None:
            texts = out.setdefault(str(record.get("prompt", "")), {})
            texts[record["step"]] = str(record.get("text", ""))
    return {prompt: dict(sorted(texts.items())) for prompt, texts in out.items()}


def _continued(prompt: str, step: Any, text: str) -> Html:
    written = tag("pre", tag("mark", prompt), clip(text, 600))
    return join((tag("p", f"step {count(step)}", class_="who"), written))
