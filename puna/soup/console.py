"""`puna soup`: a soup of what was trained anywhere, and what there is to say about it.

`make_soup(["runs/x/a", "runs/x/b"], Path("soup"), env="arithmetic")` is what the verb calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.printable import printable
from puna.core.progress import Progress
from puna.core.runs import find_model, home_of
from puna.core.stats import Difference
from puna.soup.scores import read_scores
from puna.soup.search import told
from puna.soup.stage import TAU, Plan, cook
from puna.soup.tensors import is_adapter


def make_soup(
    targets: Sequence[str | Path],
    out: Path,
    weights: Sequence[float] = (),
    *,
    method: str = "",
    scores: Path | None = None,
    tau: float = TAU,
    by: str = "",
    env: str = "",
    n: int = 200,
    max_tokens: int = 32,
    settings: Mapping[str, Any] | None = None,
    progress: str = "quiet",
) -> dict[str, Any]:
    """The soup of runs, stages, checkpoint or adapter directories; returns what `cook` does.

    With `env` the last `n` of its test tasks decide between the soup and its best member, played as
    the run of the first target plays them. Raises UserError for whatever the caller can mend.
    """
    if n < 1 or max_tokens < 1:
        raise UserError(f"n is {n} and max_tokens is {max_tokens}", "give at least 1")
    try:
        plan = Plan(method, tuple(weights), tau, read_scores(scores) if scores else None)
    except ValueError as error:
        raise UserError(str(error), "`puna soup --help` says what goes with what") from None
    members: dict[str, Path] = {}
    for target in map(Path, targets):
        model, label = _member(target)
        members[label if label not in members else _another(str(target), members)] = model
    show = Progress(progress)
    try:
        taste = None
        if env and members:
            from puna.core.threads import set_threads
            from puna.gym.registry import load_environment
            from puna.soup.taste import Taste

            home = home_of(next(iter(members.values())))
            set_threads(home.machine.threads)
            environment = load_environment(env, settings, home.seed)
            taste = Taste(environment, n, max_tokens, home.machine, home.seed, by=by)
        return cook(members, plan, out, taste, show)
    finally:
        show.close()


def numbers(text: str) -> tuple[float, ...]:
    """`"1,2,1"` as weights, none for "". Raises UserError."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        fix = "give numbers with commas between, e.g. 1,2,1"
        raise UserError(f"--weights {text}: not numbers", fix) from None


def _member(target: Path) -> tuple[Path, str]:
    """The directory of a model or of adapters, and what to call it."""
    if is_adapter(target):
        place = target.resolve()
        return target, place.parent.name if place.name == "adapter" else place.name
    return find_model(target)


def _another(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, numbered where it is taken: a member may be given twice."""
    names = (name if i == 1 else f"{name} ({i})" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in names if candidate not in taken)


def print_soup(record: Mapping[str, Any], out: Path) -> None:
    """What a soup was made of, how it was judged, and where it is."""
    lines = [f"note: {note}" for note in record["notes"]]
    lines += _searched(record["search"]) if "search" in record else []
    for member in record["members"]:
        share = f"{member['weight']:.3f} of {member['stage']}"
        lines.append(f"  {share}{_told(member.get('score'))}")
    if record["measured"]:
        lines.append(f"  the soup{_told(record['soup'])}")
        difference = Difference(**record["difference"])
        lines.append(f"  the soup minus {record['best_member']}: {difference}")
        what = "kept: the soup" if record["kept"] else f"reverted: a copy of {record['model']}"
        lines.append(f"{what} is in {out}")
    else:
        lines.append(f"not measured (--env NAME measures it): the soup is in {out}")
    for line in lines:
        print(printable(line))


def _searched(search: Mapping[str, Any]) -> list[str]:
    """How members and weights were found, and how much of it was luck."""
    lines = []
    for step in search.get("steps", ()):
        verdict = "kept" if step["kept"] else "left out"
        lines.append(f"  with {step['added']}: {step['score']:.3f} on the dev half, {verdict}")
    if "experts" in search:
        found = search["correlations"]
        over = f"{len(found['categories'])} categories over {len(found['pool'])} models"
        lines.append(f"{over}: {len(search['weak'])} correlate weakly (below {search['tau']:g})")
        lines += [f"  expert of {c}: {model}" for c, model in search["experts"].items()]
    if "drawn" in search:
        lines.append(f"  drawn at random instead of them: {', '.join(search['drawn'])}")
    if tried := search.get("tried", ()):
        best = max(tried, key=lambda t: t["score"])  # the first of equals, as it was chosen
        lines.append(f"best of {len(tried)} weightings on the dev half: {told(best['weights'])}")
    for pair in search.get("barriers", ()):
        names = " and ".join(pair["members"])
        lines.append(f"  loss barrier between {names}: {pair['barrier']:+.4f} nats a token")
    if "dev" in search:
        lines.append(
            f"over categories {search['dev']:.3f} on the dev half, {search['test']:.3f} on the "
            f"test half: optimism {search['optimism']:+.3f} (members: "
            f"{search['members_optimism']:+.3f})"
        )
    return lines


def _told(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    lost = f", {score['not_scored']} tasks not scored" if score["not_scored"] else ""
    span = f"[{score['low']:.3f}, {score['high']:.3f}]"
    return f": {score['mean']:.3f} {span} over {score['n_tasks']} tasks{lost}"
