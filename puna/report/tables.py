"""The tables of a page: the main one, scores by tag, bits per byte, what was not scored.

`main_table(rows)` -> markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puna.report.interval import GAIN, NO_GAIN, WORSE, Interval, interval, over_seeds, verdict_of
from puna.report.markup import Html, count, details, join, number, row, section, table, tag
from puna.report.read import Compared, Exam, Run, mapping
from puna.report.summary import BASELINES, Row, by_eval, compared_over_seeds

_TONE = {GAIN: "good", WORSE: "bad", NO_GAIN: "flat"}


def shown(value: Interval | None, sign: str = "") -> Html:
    """A figure with its interval in small print beneath, or a dash."""
    if value is None:
        return tag("span", "–", class_="soft")
    main, _, rest = value.text(sign).partition(" ")
    return join((main, tag("span", rest, class_="range") if rest else ""))


def judged(verdict: str) -> Html:
    """A verdict in its colour."""
    return tag("span", verdict, class_=f"verdict {_TONE.get(verdict, 'soft')}")


def main_table(rows: Sequence[Row]) -> Html:
    """One row a stage and metric, results first; the seeds of a stage beneath their mean."""
    out, last = [], ""
    for r in rows:
        name: object = r.stage.partition("@")[2] if r.of_group else r.stage
        if r.seeds:
            name = join((name, tag("span", f"mean of {len(r.seeds)} seeds", class_="range")))
        verdict = judged(r.verdict if r.state == "done" else r.state)
        result = (r.metric, shown(r.before), shown(r.after), _difference(r), verdict)
        cost = (r.kind, *map(count, (r.steps, r.tokens, r.cpu_seconds)))
        again, last = r.stage == last, r.stage
        cells = ("", *result, *("",) * 4) if again else (name, *result, *cost)
        out.append(row(cells, "seed" if r.of_group else None))
    head = ("stage", "metric", "before", "after", "difference, paired", "")
    return table((*head, "kind", "steps", "tokens", "CPU-s"), out, "wide")


def _difference(r: Row) -> Html:
    if r.difference is None:
        return shown(None)
    over = f"{r.n} seeds" if r.seeds else f"{r.n:,} {r.unit}"
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
    for (name, env), exams in by_eval(run).items():
        mine = [c for c in run.compared if (c.eval, c.env) == (name, env)]
        title = tag("strong", f"{env}, by {name}")
        parts.append(details(title, _by_tag(exams), _compared(mine), open_=not parts))
    note = "Mean value with its 95 % interval over tasks."
    return section("Scores by tag", *parts, note=note)


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
        tagged = [e.by_tag.get(name, {}) for e in exams]
        heading = _counted(name, tagged)
        lines.append(row((heading, *(shown(interval(t.get("value"))) for t in tagged))))
    if chance is not None:
        lines.append(row(("chance", *(f"{chance:.3f}" for _ in exams)), "seed"))
    return table(("", *(e.stage for e in exams)), lines)


def _value(exam: Exam, key: str) -> Html:
    return shown(interval(exam.score.get(key)))


def _counted(name: str, scores: Sequence[Mapping[str, Any]]) -> Html:
    """A row's heading with its number of tasks that have a score."""
    found = [number(mapping(s.get("value")).get("n_tasks")) for s in scores]
    sizes = {int(n) for n in found if n is not None}
    text = "–".join(f"{n:,}" for n in sorted({min(sizes), max(sizes)})) if sizes else "no"
    return join((name, tag("span", f"{text} tasks", class_="range")))


def _compared(found: Sequence[Compared]) -> Html:
    lines = []
    for c in found:
        difference = interval(c.found)
        n, p, detectable = (number(c.found.get(k)) for k in ("n", "p_value", "detectable"))
        cells = (
            f"{c.to} minus {c.before}",
            shown(difference, "+"),
            count(n),
            "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001",
            "–" if detectable is None else f"{detectable:.3f}",
            judged(verdict_of(difference)),
        )
        lines.append(row(cells))
    if not lines:
        return Html("")
    return table(("difference, paired", "", "tasks", "p", "detectable", ""), lines)


def seeds_compared(run: Run) -> Html:
    """Stages set side by side over seeds: the mean difference, and each seed's."""
    lines = []
    for (_, env, before, to), values in compared_over_seeds(run.compared).items():
        mean = over_seeds(values)
        each = ", ".join(f"{v:+.3f}" for v in values)
        name = f"{to} minus {before}"
        lines.append(row((name, env, shown(mean, "+"), each, judged(verdict_of(mean)))))
    if not lines:
        return Html("")
    head = ("difference over seeds", "metric", "mean", "each seed", "")
    return join((tag("h3", "Side by side, over seeds"), table(head, lines)))


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
