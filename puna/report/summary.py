"""What came out of a run, a row a stage: `summary_table(Path("runs/quickstart"))`.

A gain is claimed only where the interval of the paired difference lies above zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from puna.report.interval import (
    GAIN,
    NO_GAIN,
    NOT_COMPARED,
    Interval,
    interval,
    over_seeds,
    verdict_of,
)
from puna.report.markup import number
from puna.report.read import (
    Compared,
    Exam,
    Run,
    Stage,
    group_of,
    mapping,
    open_run,
    sequence,
)

_BITS = "bits per byte"
_TRAINING = {"held_out": "held-out score while training", "reward": "reward", "loss": "loss"}
BASELINES = {
    "xz": "xz -9",
    "xz_with_training_text": "xz -9 after the training text",
    "byte_5gram": "5-gram of bytes",
    "token_5gram": "5-gram of tokens",
}


@dataclass(frozen=True)
class Row:
    """One stage and one metric of it; `seeds` is what a row that averages over seeds averages.

    `difference` is after minus before, task by task over `n` tasks or whatever `unit` names (over
    seeds in such a row).
    """

    stage: str
    kind: str
    state: str
    steps: float | None = None
    tokens: float | None = None
    cpu_seconds: float | None = None
    metric: str = ""
    before: Interval | None = None
    after: Interval | None = None
    difference: Interval | None = None
    n: int = 0
    verdict: str = ""
    seeds: tuple[str, ...] = ()
    of_group: str = ""
    unit: str = "tasks"

    @property
    def less_is_better(self) -> bool:
        """Whether a difference below zero is the gain."""
        return self.metric.startswith(_BITS)


def summary_table(run_dir: Path) -> list[Row]:
    """The rows of the final table. Raises UserError where `run_dir` holds no run."""
    return rows_of(open_run(run_dir))


def rows_of(run: Run) -> list[Row]:
    """A row a stage and metric, in order; before the seeds of a stage, their mean."""
    out: list[Row] = []
    for group, stages in run.groups().items():
        rows = [row for stage in stages for row in _stage_rows(run, stage)]
        means = _over_seeds(group, rows) if len(stages) > 1 else []
        out += [*means, *(replace(r, of_group=group if means else "") for r in rows)]
    return out


def _stage_rows(run: Run, stage: Stage) -> list[Row]:
    steps, tokens, cpu = map(stage.figure, ("steps", "tokens", "cpu_seconds"))
    base = Row(stage.id, stage.kind, stage.state, steps, tokens, cpu)
    if stage.kind == "eval":
        scored = len({e.stage for e in run.exams if e.eval == stage.id})
        return [replace(base, metric=f"scored {scored} stages" if scored else "")]
    bits = mapping(stage.result.get("bits_per_byte"))
    rows = _context_rows(base, bits) or _soup_rows(base, stage.result)
    if not rows and number(bits.get("model")) is not None:
        rows = [_bits_row(base, bits)]
    # A soup is measured by the best that went into it, any other stage by what it began with.
    first = stage.parents[0] if stage.parents else ""
    parent = str(stage.result.get("best_member") or first)
    if parent or not rows:
        mine = (exam for exam in run.exams if exam.stage == stage.id)
        rows += [_score_row(run, base, exam, parent) for exam in mine]
    rows = _alarm_rows(base, mapping(stage.result.get("stopped_by_alarm"))) + rows
    return rows or [_training_row(base, stage)]


def _alarm_rows(base: Row, stopped: Mapping[str, Any]) -> list[Row]:
    """The figures on which its alarm stopped a stage: in the first steps, and in the last one."""
    figures, out = mapping(stopped.get("figures")), []
    verdict = f"stopped by its alarm at step {stopped.get('step')}"
    for name in (n for n in figures if f"{n}_at_start" in figures):
        before, after = (interval({"mean": figures[k]}) for k in (f"{name}_at_start", name))
        metric = f"{name} while training"
        out.append(replace(base, metric=metric, before=before, after=after, verdict=verdict))
    return out


def _bits_row(base: Row, bits: Mapping[str, Any]) -> Row:
    after = interval(bits, "model")
    assert after is not None
    worst = after.mean if after.high is None else after.high
    known = {n: v for k, n in BASELINES.items() if (v := number(bits.get(k))) is not None}
    missed = [name for name, value in known.items() if value <= worst]
    verdict = f"not below {', '.join(missed)}" if missed else "below xz -9 and 5-gram models"
    return replace(base, metric=_BITS, after=after, verdict=verdict if known else NOT_COMPARED)


def _context_rows(base: Row, bits: Mapping[str, Any]) -> list[Row]:
    """What a midtrain stage measured: before and after at each context, then long beside short."""
    out = []
    for found in map(mapping, [*sequence(bits.get("contexts")), *sequence(bits.get("longer"))]):
        difference = interval(found.get("difference"))
        if difference is not None and difference.low is None:
            difference = None  # of a single file
        row = replace(
            base,
            metric=f"{_BITS}, {found.get('name')}",
            before=interval(found.get("before")),
            after=interval(found.get("after")),
            difference=difference,
            n=int(number(mapping(found.get("difference")).get("n")) or 0),
            unit="files",
        )
        out.append(replace(row, verdict=_verdict(row, difference)))
    return out


def _soup_rows(base: Row, result: Mapping[str, Any]) -> list[Row]:
    """The best member and the soup on the tasks that decided; none where nothing was measured."""
    difference = interval(result.get("difference"))
    members = {str(m.get("stage")): m for m in map(mapping, sequence(result.get("members")))}
    best = str(result.get("best_member"))
    if difference is None or best not in members:
        return []
    env, before = mapping(result.get("env")), interval(members[best].get("score"))
    name = f"{env.get('name', '')} {env.get('version', '')}".strip()
    row = replace(base, metric=f"{name}, tasks that chose", before=before)
    if not result.get("kept"):
        verdict = f"reverted to {best}: soup {difference.text('+')}"
        return [replace(row, after=before, verdict=verdict)]
    n = int(number(mapping(result.get("difference")).get("n")) or 0)
    after, verdict = interval(result.get("soup")), verdict_of(difference)
    return [replace(row, after=after, difference=difference, n=n, verdict=verdict)]


def _verdict(row: Row, difference: Interval | None) -> str:
    return verdict_of(difference.negative if difference and row.less_is_better else difference)


def _score_row(run: Run, base: Row, exam: Exam, parent: str) -> Row:
    same = [e for e in run.exams if (e.eval, e.env) == (exam.eval, exam.env)]
    several = len({e.eval for e in run.exams if (e.stage, e.env) == (exam.stage, exam.env)}) > 1
    metric = f"{exam.env}, {exam.eval}" if several else exam.env
    out = replace(base, metric=metric, after=interval(exam.score.get("value")))
    before = next((e for e in same if e.stage == parent), None)
    if before is None:
        return replace(out, verdict=NOT_COMPARED)
    out = replace(out, before=interval(before.score.get("value")))
    difference, n = difference_between(run, before, exam)
    return replace(out, difference=difference, n=n, verdict=verdict_of(difference))


def difference_between(run: Run, before: Exam, after: Exam) -> tuple[Interval | None, int]:
    """`after` minus `before` as the eval stage found it, and over how many tasks."""
    for c in run.compared:
        found = interval(c.found)
        if found is not None and (c.eval, c.env) == (after.eval, after.env):
            n = int(number(c.found.get("n")) or 0)
            if (c.before, c.to) == (before.stage, after.stage):
                return found, n
            if (c.to, c.before) == (before.stage, after.stage):
                return found.negative, n
    return None, 0


def by_eval(run: Run) -> dict[tuple[str, str], list[Exam]]:
    """Exams by eval stage and environment."""
    out: dict[tuple[str, str], list[Exam]] = {}
    for exam in run.exams:
        out.setdefault((exam.eval, exam.env), []).append(exam)
    return out


def compared_over_seeds(found: Sequence[Compared]) -> dict[tuple[str, str, str, str], list[float]]:
    """(eval, env, before, to) without seeds -> the difference of each seed, where several are."""
    out: dict[tuple[str, str, str, str], list[float]] = {}
    for c in found:
        names = [group_of(n)[0] for n in (c.eval, c.before, c.to)]
        difference = interval(c.found)
        if difference is not None and names[1] != names[2]:
            key = (names[0], c.env, names[1], names[2])
            out.setdefault(key, []).append(difference.mean)
    return {key: values for key, values in out.items() if len(values) > 1}


def _training_row(base: Row, stage: Stage) -> Row:
    """No eval stage scored it: the figures of its own training, which claim nothing."""
    for key, name in _TRAINING.items():
        values = [v for m in stage.metrics if (v := number(m.get(key))) is not None]
        if values:
            best = number(stage.result.get("best_held_out")) if key == "held_out" else None
            # Reward and loss of one step are noise: the first and the last tenth stand for them.
            width = 1 if key == "held_out" else max(1, len(values) // 10)
            first, last = values[:width], values[-width:]
            after = sum(last) / len(last) if best is None else best
            return replace(
                base,
                metric=name if best is None else f"best {name}",
                before=Interval(sum(first) / len(first)),
                after=Interval(after),
                verdict=NOT_COMPARED,
            )
    return base


def _over_seeds(group: str, rows: Sequence[Row]) -> list[Row]:
    """One row a metric: means over the seeds that have it, and a t interval of the difference."""
    out = []
    for metric in dict.fromkeys(r.metric for r in rows):
        mine = [r for r in rows if r.metric == metric]
        done = [r for r in mine if r.state == "done"]
        if len(done) < 2:
            continue
        verdicts = {r.verdict for r in done}
        difference = over_seeds([r.difference.mean for r in done if r.difference])
        before = over_seeds([r.before.mean for r in done if r.before])
        cost = (_mean([getattr(r, k) for r in done]) for k in ("steps", "tokens", "cpu_seconds"))
        steps, tokens, cpu = cost
        out.append(
            Row(
                group,
                mine[0].kind,
                "done" if len(done) == len(mine) else "unfinished",
                steps,
                tokens,
                cpu,
                metric=metric,
                before=before and Interval(before.mean),
                after=over_seeds([r.after.mean for r in done if r.after]),
                difference=difference,
                n=sum(r.difference is not None for r in done),
                verdict=_verdict(mine[0], difference)
                if difference or len(verdicts) > 1
                else verdicts.pop(),
                seeds=tuple(r.stage for r in done),
            )
        )
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def headline(run: Run, rows: Sequence[Row]) -> str:
    """One sentence of what came out."""
    for stage in run.stages:
        if stopped := mapping(stage.result.get("stopped_by_alarm")):
            at = f"{stage.id} was stopped by its alarm at step {stopped.get('step')}"
            return f"{at}: {stopped.get('text')}."
    told = [r for r in rows if r.difference and not r.of_group]
    if told:
        return _told(next((r for r in reversed(told) if r.kind == "rl"), told[-1]))
    bits = next((r for r in rows if r.metric == _BITS and r.after), None)
    if bits is not None and bits.after is not None:
        needs = f"The model needs {bits.after.mean:.3f} bits for a byte of text it never saw"
        return f"{needs}." if bits.verdict == NOT_COMPARED else f"{needs}: {bits.verdict}."
    done = sum(s.state == "done" for s in run.stages)
    return f"{done} of {len(run.stages)} stages are done; no stage has been compared with another."


def _told(row: Row) -> str:
    assert row.difference is not None
    over = f"{len(row.seeds)} seeds" if row.seeds else f"{row.n:,} paired {row.unit}"
    by = f"{row.difference.text('+')} over {over}"
    if row.before is None or row.after is None:
        return f"{row.stage} on {row.metric}: {row.verdict} ({by})."
    span = f"from {row.before.mean:.3f} to {row.after.mean:.3f}"
    if row.verdict == NO_GAIN:
        return f"{row.stage} showed no gain on {row.metric}: {span}, a difference of {by}."
    verb = "raised" if (row.verdict == GAIN) != row.less_is_better else "lowered"
    metric = row.metric if row.less_is_better else f"the score on {row.metric}"
    return f"{row.stage} {verb} {metric} {span}: {by}."
