"""A page about two results, whole in one file.

`write_comparison(puna.compare("runs/mine/sft", "runs/mine/rl"), Path("difference.html"))`.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from puna.core.files import write_text
from puna.core.stats import Difference, Estimate, Score, p_text
from puna.evals.compare import BETTER, NO_DIFFERENCE, WORSE, Comparison, Pair, Suite
from puna.report.interval import Interval
from puna.report.markup import Html, clip, count, details, join, row, section, table, tag
from puna.report.paired import forest, scatter
from puna.report.style import frame
from puna.report.tables import shown

TONES = {BETTER: "good", WORSE: "bad", NO_DIFFERENCE: "flat"}
ROWS = 10


def write_comparison(found: Comparison, path: Path, rows: int = 0) -> Path:
    """Write the page to `path`; returns it. `rows` wins and losses of each suite, 0: ten.

    Raises UserError where it cannot be written.
    """
    write_text(path, render(found, rows or ROWS), "report")
    return path


def render(found: Comparison, rows: int = ROWS) -> str:
    """The page as text: the same comparison gives the same bytes."""
    title = f"{found.names[1]} against {found.names[0]}"
    body = join(
        (
            _top(found, title),
            tag("section", _table(found), _legend(found)),
            _differences(found),
            *(_suite(found, i, rows) for i in range(len(found.suites))),
            _unscored(found),
            _left_out(found),
            _reproduce(found),
        ),
        "\n",
    )
    return frame(title, body)


def _top(found: Comparison, title: str) -> Html:
    who = (tag("dt", "A"), tag("dd", found.names[0]), tag("dt", "B"), tag("dd", found.names[1]))
    lead = tag("p", headline(found), class_="lead")
    return tag("header", tag("h1", title), lead, tag("dl", *who))


def headline(found: Comparison) -> str:
    """One sentence of what was found; a winner only where a suite's verdict names one."""
    if len(found.suites) > 1:
        named = Counter(suite.verdict for suite in found.suites)
        return (
            f"Of {len(found.suites)} environments B is better on {named[BETTER]} and worse on "
            f"{named[WORSE]}; on {named[NO_DIFFERENCE]} no difference is shown."
        )
    (suite,) = found.suites
    by = f"{_interval(suite.difference).text('+')} over {suite.difference.n:,} paired tasks"
    where = f"on {found.title(suite)}"
    if suite.verdict == NO_DIFFERENCE:
        return f"No difference is shown {where}: B minus A is {by}."
    return f"B is {suite.verdict} than A {where}: {by}."


def _interval(found: Estimate | Difference) -> Interval:
    return Interval(found.mean, found.low, found.high)


def _table(found: Comparison) -> Html:
    lines = []
    for suite in found.suites:
        d = suite.difference
        tasks = tag("span", f"{d.n:,} tasks", class_="range")
        cells = (
            join((found.title(suite), tag("span", suite.role, class_="range"))),
            tag("span", suite.verdict, class_=f"verdict {TONES[suite.verdict]}"),
            join((shown(_interval(d), "+"), tasks)),
            _score(suite.a),
            _score(suite.b),
            p_text(d.p_value).removeprefix("="),
            p_text(suite.p_holm).removeprefix("="),
            f"{d.detectable:.3f}",
        )
        lines += [row(cells), *_pass_rows(suite)]
    head = ("environment", "verdict", "B minus A, paired", "A", "B", "p", "p, Holm", "detectable")
    return table(head, lines, "wide")


def _score(score: Score) -> Html:
    return shown(_interval(score.value) if score.value else None)


def _pass_rows(suite: Suite) -> list[Html]:
    """pass@k and pass^k of both, for k > 1."""
    out = []
    k = suite.a.k
    for name, a, b in (
        (f"pass@{k}", suite.a.pass_at.get(k), suite.b.pass_at.get(k)),
        (f"pass^{k}", suite.a.pass_hat.get(k), suite.b.pass_hat.get(k)),
    ):
        if k > 1:
            cells = (shown(_interval(e) if e else None) for e in (a, b))
            out.append(row((name, "", "", *cells, "", "", ""), "seed"))
    return out


def _legend(found: Comparison) -> Html:
    text = (
        "Small print: 95 % intervals over tasks. B minus A is taken task by task; p is of the "
        "sign-flip test. Detectable: a true difference of this size would be found in 80 % of "
        "repeats."
    )
    if len(found.suites) > 1:
        text += " Verdicts go by Holm's p, which allows for so many environments at once."
    return tag("p", text, class_="note")


def _differences(found: Comparison) -> Html:
    note = "Dot: B minus A; whisker: its 95 % interval; grey: too small to be found reliably."
    rows = [(found.title(s), s.difference, TONES[s.verdict]) for s in found.suites]
    return section("Differences", tag("figure", forest(rows), class_="forest"), note=note)


def _suite(found: Comparison, index: int, rows: int) -> Html:
    suite = found.suites[index]
    solved = tag(
        "dl",
        *(
            part
            for who, n in suite.solved.items()
            for part in (tag("dt", f"solved by {who}"), tag("dd", f"{n:,}"))
        ),
    )
    picture = tag("figure", scatter(f"tasks-{index}", suite.pairs), class_="scatter")
    alone = len(found.suites) == 1
    lists = (_listed("B", suite.wins, rows, alone), _listed("A", suite.losses, rows, alone))
    level = len(suite.pairs) - len(suite.wins) - len(suite.losses)
    note = f"A circle: tasks with these two scores; on the line both are level ({level:,} tasks)."
    sides = tag("div", picture, tag("div", solved, *lists), class_="sides")
    return section(found.title(suite), sides, note=note)


def _listed(letter: str, pairs: Sequence[Pair], rows: int, open_: bool) -> Html:
    """The tasks on which one side is ahead, the largest differences first."""
    title = f"{letter} ahead on {len(pairs):,} tasks"
    if not pairs:
        return tag("p", title)
    if len(pairs) > rows:
        title += f", the {rows} with the largest differences"
    lines = [
        row((clip(p.task, 120), f"{p.a:.3f}", f"{p.b:.3f}", f"{p.difference:+.3f}"))
        for p in pairs[:rows]
    ]
    head = ("task", "A", "B", "B minus A")
    return details(title, table(head, lines, "tasks"), open_=open_)


def _unscored(found: Comparison) -> Html:
    lines, lost = [], 0
    for suite in found.suites:
        for letter, score in (("A", suite.a), ("B", suite.b)):
            cells = map(count, (score.n_scored, score.n_invalid, score.n_infra))
            heading = f"{letter} on {found.title(suite)}"
            lines.append(row((heading, *cells, f"{score.counted_zero:.3f}")))
            lost += score.n_invalid + score.n_infra
    if not lost:
        text = "Nothing: every episode of the common tasks was scored."
        return section("What was not scored", tag("p", text))
    head = ("", "scored", "invalid (the task)", "infra (the machinery)", "score, those counted 0")
    note = "Such episodes are in no score; a task without a scored one is not compared."
    return section("What was not scored", table(head, lines), note=note)


def _left_out(found: Comparison) -> Html:
    items = [tag("p", why) for why in found.left_out]
    return section("Left out", *items, note="Evaluated, but not comparable.")


def _reproduce(found: Comparison) -> Html:
    command = " ".join(("puna compare", *map(shlex.quote, found.places), "--report FILE.html"))
    note = "The p-value's random signs have a fixed seed: the same results give the same page."
    return section("How to reproduce", tag("pre", command), note=note)
