"""`puna.eval(...)`, which `puna eval` calls: any run, checkpoint or endpoint, on any environment.

`puna.eval("runs/quickstart", "arithmetic", n=200, k=8).score.line()`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.files import sha256_file, sha256_json, write_json
from puna.core.progress import Progress
from puna.core.runs import find_model
from puna.evals.evaluate import EvalResult, evaluate, failures, local_policy
from puna.gym.registry import load_environment


@dataclass(frozen=True)
class Evaluation:
    """What was scored, on what, and where the episodes are kept."""

    policy: str
    result: EvalResult
    directory: Path

    @property
    def score(self) -> Any:
        """The first role's score (see `core.stats.Score`)."""
        return self.result.score


def eval(
    target: str | Path,
    env: str = "arithmetic",
    *,
    n: int = 200,
    k: int = 1,
    stage: str = "",
    temperature: float | None = None,
    max_tokens: int = 32,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    model_name: str = "",
    api_key_env: str = "",
    concurrency: int = 16,
    out: Path | None = None,
    progress: str = "quiet",
) -> Evaluation:
    """Score a policy on `n` test tasks with `k` episodes each.

    `target` is a run's, stage's or checkpoint's directory, or the http(s) address of an
    OpenAI-compatible endpoint. Finished episodes are kept; the same call goes on where it stopped.
    Raises UserError for whatever the caller can mend.
    """
    if n < 1 or k < 1:
        raise UserError(f"n is {n} and k is {k}", "both must be at least 1")
    heat = temperature if temperature is not None else (0.0 if k == 1 else 1.0)
    if max_tokens < 1 or not 0 <= heat < float("inf"):
        what = f"max_tokens is {max_tokens} and temperature is {heat}"
        raise UserError(what, "give at least 1 and at least 0")
    environment = load_environment(env, settings, seed)
    show = Progress(progress)
    facts = {"env": environment.content_hash, "k": k, "temperature": heat}  # type: ignore[attr-defined]
    facts |= {"max_tokens": max_tokens, "seed": seed}
    common = {"n": n, "k": k}
    try:
        if str(target).startswith(("http://", "https://")):
            return _endpoint(
                str(target),
                environment,
                facts,
                common,
                model_name,
                api_key_env,
                concurrency,
                out,
                show,
            )
        return _local(Path(target), stage, environment, facts, common, out, show)
    finally:
        show.close()


def _local(
    target: Path,
    stage: str,
    env: Any,
    facts: dict[str, Any],
    common: dict[str, int],
    out: Path | None,
    show: Progress,
) -> Evaluation:
    from puna.core.threads import set_threads
    from puna.engine.policy import SamplingParams
    from puna.models import hf
    from puna.text.tokenizer import Tokenizer

    directory, label = find_model(target, stage)
    set_threads(_threads(target))
    model, _ = hf.load(directory)
    shards = [sha256_file(p) for p in sorted(directory.glob("*.safetensors"))]
    facts["weights"] = shards[0] if len(shards) == 1 else sha256_json(shards)
    where = _place(out or target / "evals", label, env.name, facts)
    sampler, meet = local_policy(model, Tokenizer.load(directory), facts["seed"])
    result = evaluate(
        env,
        dict.fromkeys(env.roles, sampler),
        params=SamplingParams(facts["max_tokens"], facts["temperature"]),
        meet=meet,
        journal=where / "episodes.jsonl",
        progress=lambda d, t, m: show.step(f"eval {label}", d, t, {"score": m}),
        n=common["n"],
        k=common["k"],
    )
    return _finish(label, result, where, facts)


def _endpoint(
    url: str,
    env: Any,
    facts: dict[str, Any],
    common: dict[str, int],
    name: str,
    api_key_env: str,
    concurrency: int,
    out: Path | None,
    show: Progress,
) -> Evaluation:
    from puna.engine.policy import SamplingParams
    from puna.engine.remote import RemoteChat, RemoteConfig

    config = RemoteConfig(
        url=url, model=name or None, api_key_env=api_key_env or None, concurrency=concurrency
    )
    served = asyncio.run(RemoteChat(config).probe())
    config = replace(config, model=served)
    label = name or url.split("//", 1)[-1]
    facts |= {"url": url, "model": served}
    where = _place(out or Path("evals"), label, env.name, facts)
    result = evaluate(
        env,
        {role: RemoteChat(config) for role in env.roles},
        params=SamplingParams(facts["max_tokens"], facts["temperature"]),
        journal=where / "episodes.jsonl",
        concurrency=concurrency,
        progress=lambda d, t, m: show.step(f"eval {label}", d, t, {"score": m}),
        n=common["n"],
        k=common["k"],
    )
    return _finish(label, result, where, facts)


def _threads(target: Path) -> int:
    """The threads the run was made with, so that its scores come out the same."""
    path = target / "run.json"
    if path.exists():
        try:
            return int(json.loads(path.read_text())["machine"]["threads"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is broken: {error!r}", "name the stage's directory") from error
    return 0


def _place(root: Path, label: str, env: str, facts: Mapping[str, Any]) -> Path:
    name = "".join(c if c.isalnum() or c in "-_.@=," else "_" for c in f"{label}-{env}")
    return root / f"{name}-{sha256_json(dict(facts))[:8]}"


def _finish(label: str, result: EvalResult, where: Path, facts: Mapping[str, Any]) -> Evaluation:
    write_json(
        where / "result.json",
        {
            "schema": 1,
            "policy": label,
            "env": dict(result.env),
            "facts": dict(facts),
            "scores": {role: s.to_json() for role, s in result.scores.items()},
            "by_tag": {tag: s.to_json() for tag, s in result.by_tag.items()},
            "usage": dict(result.usage),
        },
        "eval",
    )
    return Evaluation(label, result, where)


def print_result(found: Evaluation) -> None:
    """The table of an evaluation: every role, every slice, pass@k and pass^k, what failed."""
    from rich.console import Console
    from rich.table import Table

    result = found.result
    console = Console()
    title = f"{found.policy} on {result.env['name']} {result.env['version']} ({result.env['hash']})"
    table = Table(title=title, title_justify="left")
    for column in ("slice", "score", "95 % interval", "tasks", "k", "pass@k", "pass^k"):
        table.add_column(column)
    rows = [("all" if len(result.scores) == 1 else r, s) for r, s in result.scores.items()]
    for name, score in [*rows, *result.by_tag.items()]:
        value = score.value
        table.add_row(
            name,
            f"{value.mean:.3f}" if value else "-",
            f"{value.low:.3f} to {value.high:.3f}" if value else "-",
            str(score.n_tasks),
            str(score.k),
            f"{score.pass_at[score.k].mean:.3f}" if score.k in score.pass_at else "-",
            f"{score.pass_hat[score.k].mean:.3f}" if score.k in score.pass_hat else "-",
        )
    console.print(table)
    score = result.score
    if score.n_infra or score.n_invalid:
        console.print(
            f"not scored: {score.n_infra} infra, {score.n_invalid} invalid; "
            f"with those counted 0 the score is {score.counted_zero:.3f}"
        )
        for reason in failures(next(iter(result.outcomes.values())))[:3]:
            console.print(f"  {reason[:200]}", markup=False)
    if "cost" in result.usage:
        console.print(f"cost: {result.usage['cost']:.4f}")
    console.print(f"episodes: {found.directory}/episodes.jsonl", markup=False, highlight=False)
