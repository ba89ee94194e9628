"""The tables of a page: the main one, scores by tag, bits per byte, what was not scored.

`main_table(rows)` -> markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puna.report.interval import GAIN, NO_GAIN, WORSE, Interval, interval, verdict_of
from puna.report.markup import Html, count, join, number, row, section, table, tag
from puna.report.read import Exam, Run, mapping
from puna.report.summary import BASELINES, Row

_TONE = {GAIN: "good", WORSE: "bad", NO_GAIN: "flat"}


def shown(value: Interval | None, sign: str = "") -> Html:
    """A figure with its interval in small print beneath, or a dash."""
    if value is None:
        return tag("span", "–", class_="soft")
    main, _, rest = value.text(sign).partition(" ")
    return join((main, tag("span", rest, class_="range") if rest else ""))


def judged(verdict: str) -> Html:
    """A verdict in its colour."""
    return tag("span", verdict, class_=_TONE.get(verdict, "soft"))


def main_table(rows: Sequence[Row]) -> Html:
    """One row a stage and metric; the seeds of a stage beneath their mean."""
    head = ("stage", "kind", "steps", "tokens", "CPU-s", "metric", "before", "after")
    out, last = [], ""
    for r in rows:
        again, last = r.stage == last, r.stage
        name: object = r.stage
        if r.seeds:
            name = join((r.stage, tag("span", f"mean of {len(r.seeds)} seeds", class_="range")))
        costs = map(count, (r.steps, r.tokens, r.cpu_seconds))
        first = ("",) * 5 if again else (name, r.kind, *costs)
        result = (r.metric, shown(r.before), shown(r.after), _difference(r))
        verdict = judged(r.verdict) if r.state == "done" else judged(r.state)
        out.append(row((*first, *result, verdict), "seed" if r.of_group else None))
    return table((*head, "difference, paired", ""), out, "wide")


def _difference(r: Row) -> Html:
    if r.difference is None:
        return shown(None)
    over = f"{r.n} seeds" if r.seeds else f"{r.n:,} tasks"
    return join((shown(r.difference, "+"), tag("span", over, class_="range")))


def bits_charts(run: Run) -> Html:
    """Bits per byte of each pretrained model as bars beside its baselines."""
    charts = []
    for stage in run.stages:
        bits = mapping(stage.result.get("bits_per_byte"))
        own = interval(bits, "model")
        if own is None:
            continue
        bars = [(f"{stage.id}: this model", own)]
        bars += [(n, Interval(v)) for k, n in BASELINES.items() if (v := number(bits.get(k)))]
        bars.sort(key=lambda bar: bar[1].mean)
        longest = max(b.mean for _, b in bars) or 1.0
        cells = [part for name, b in bars for part in _bar(name, b, b.mean / longest, b is own)]
        charts.append(tag("div", *cells, class_="bars"))
    note = "On held-out files; less is better. The interval is over files."
    return section("Bits per byte", *charts, note=note)


def _bar(name: str, value: Interval, share: float, mine: bool) -> tuple[Html, Html, Html]:
    width = f"width: {100 * max(0.0, share):.1f}%"
    bar = tag("div", class_="bar mine" if mine else "bar", style=width)
    return tag("div", tag("strong", name) if mine else name), bar, tag("div", value.text())


def score_tables(run: Run) -> Html:
    """Every score by task tag: a table for each eval stage and environment."""
    parts: list[Html] = []
    for (name, env), exams in _by_eval(run).items():
        parts += [tag("h3", f"{env}, by {name}"), _by_tag(exams), _compared(run, name, env)]
    note = "Mean value with its 95 % interval over tasks."
    return section("Scores by tag", *parts, note=note)


def _by_eval(run: Run) -> dict[tuple[str, str], list[Exam]]:
    out: dict[tuple[str, str], list[Exam]] = {}
    for exam in run.exams:
        out.setdefault((exam.eval, exam.env), []).append(exam)
    return out


def _by_tag(exams: Sequence[Exam]) -> Html:
    chance = exams[0].chance
    lines = [row((_counted("all", [e.score for e in exams]), *(_value(e, "value") for e in exams)))]
    if any(e.score.get("value") != e.score.get("success") for e in exams):
        lines.append(row(("success", *(_value(e, "success") for e in exams))))
    k = max(int(number(e.score.get("k")) or 1) for e in exams)
    if k > 1:
        for key, name in (("pass_at", f"pass@{k}"), ("pass_hat", f"pass^{k}")):
            found = [mapping(e.score.get(key)).get(str(k)) for e in exams]
            lines.append(row((name, *(shown(interval(f)) for f in found))))
    for name in dict.fromkeys(t for e in exams for t in e.by_tag):
        found = [e.by_tag.get(name, {}) for e in exams]
        heading = _counted(name, found)
        lines.append(row((heading, *(shown(interval(f.get("value"))) for f in found))))
    if chance is not None:
        lines.append(row(("chance", *(f"{chance:.3f}" for _ in exams)), "seed"))
    return table(("", *(e.stage for e in exams)), lines)


def _value(exam: Exam, key: str) -> Html:
    return shown(interval(exam.score.get(key)))


def _counted(name: str, scores: Sequence[Mapping[str, Any]]) -> Html:
    """A row's heading with its number of tasks."""
    sizes = {int(n) for s in scores if (n := number(s.get("n_tasks"))) is not None}
    text = "–".join(f"{n:,}" for n in sorted({min(sizes), max(sizes)})) if sizes else "no"
    return join((name, tag("span", f"{text} tasks", class_="range")))


def _compared(run: Run, name: str, env: str) -> Html:
    lines = []
    for c in run.compared:
        if (c.eval, c.env) == (name, env):
            difference, p = interval(c.found), number(c.found.get("p_value"))
            detectable = number(c.found.get("detectable"))
            cells = (
                f"{c.to} minus {c.before}",
                shown(difference, "+"),
                count(number(c.found.get("n"))),
                "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001",
                "–" if detectable is None else f"{detectable:.3f}",
                judged(verdict_of(difference)),
            )
            lines.append(row(cells))
    if not lines:
        return Html("")
    return table(("difference, paired", "", "tasks", "p", "detectable", ""), lines)


def unscored(run: Run) -> Html:
    """What the machinery or broken tasks cost: episodes that no score includes."""
    lines = []
    for exam in run.exams:
        scored, invalid, infra = (
            number(exam.score.get(k)) or 0.0 for k in ("n_scored", "n_invalid", "n_infra")
        )
        zero = number(exam.score.get("counted_zero"))
        value = "–" if zero is None else f"{zero:.3f}"
        where = f"{exam.stage} on {exam.env}, by {exam.eval}"
        lines.append((where, scored, invalid, infra, value))
    for stage in run.stages:
        scored, invalid, infra = (
            sum((number(m.get(k)) or 0.0 for m in stage.metrics), 0.0)
            for k in ("scored", "invalid", "infra")
        )
        if scored or invalid or infra:
            lines.append((f"{stage.id}, while training", scored, invalid, infra, "–"))
    if not lines:
        return Html("")
    total, lost = sum(line[1] for line in lines), sum(line[2] + line[3] for line in lines)
    if not lost:
        text = f"Nothing: all {total:,.0f} episodes were scored."
        return section("What was not scored", tag("p", text))
    head = ("", "scored", "invalid (the task)", "infra (the machinery)", "score, those counted 0")
    cells = [row((a, *map(count, (b, c, d)), e)) for a, b, c, d, e in lines]
    return section(
        "What was not scored",
        table(head, cells),
        note="Such episodes are in no score and no training batch.",
    )
