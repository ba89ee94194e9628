"""`puna.eval(...)`, which `puna eval` calls: any run, checkpoint or endpoint, on any environment.

`puna.eval("runs/quickstart", "arithmetic", n=200, k=8).score.line()`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.files import locked, sha256_file, sha256_json, write_json
from puna.core.printable import printable
from puna.core.progress import Progress
from puna.core.runs import find_model, home_of, weights_hash
from puna.core.stage import Machine
from puna.evals.evaluate import (
    EvalResult,
    all_there_are,
    evaluate,
    failures,
    local_policy,
    place_on,
)
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
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    model_name: str = "",
    api_key_env: str = "",
    agent: str = "",
    concurrency: int = 16,
    out: Path | None = None,
    progress: str = "quiet",
) -> Evaluation:
    """Score a policy on `n` test tasks with `k` episodes each.

    `target` is a run's, stage's or checkpoint's directory, or the http(s) address of an
    OpenAI-compatible endpoint. What belongs to a run is scored as the run itself does it: with its
    dtype, threads, device and its environment's seed (0 elsewhere). `seed` names the random streams
    of sampling; that same seed if not given. `agent` is the command of an outside program through
    which the policy acts (docs/outside-agents.md); `concurrency` bounds its processes, and requests
    to an endpoint. Finished episodes are kept; the same call goes on where it stopped.
    Raises UserError for whatever the caller can mend.
    """
    if n < 1 or k < 1:
        raise UserError(f"n is {n} and k is {k}", "both must be at least 1")
    heat = temperature if temperature is not None else (0.0 if k == 1 else 1.0)
    if max_tokens < 1 or not 0 <= heat < float("inf"):
        what = f"max_tokens is {max_tokens} and temperature is {heat}"
        raise UserError(what, "give at least 1 and at least 0")
    show = Progress(progress)
    facts: dict[str, Any] = {"k": k, "temperature": heat, "max_tokens": max_tokens}
    facts["seed"] = seed or 0
    acting = _agent(agent, show)
    if acting is not None:
        facts["agent"] = {"command": agent, "files": _files(acting.words)}
    common: dict[str, Any] = {"n": n, "k": k, "concurrency": concurrency}
    try:
        if str(target).startswith(("http://", "https://")):
            environment = load_environment(env, settings, 0)
            facts |= _env_facts(environment, n, show)
            common["agents"] = _by_role(environment, acting)
            return _endpoint(
                str(target),
                environment,
                facts,
                common,
                model_name,
                api_key_env,
                out,
                show,
            )
        directory, label = find_model(Path(target), stage)
        home = home_of(directory)
        environment = load_environment(env, settings, home.seed)
        facts |= _env_facts(environment, n, show)
        common["agents"] = _by_role(environment, acting)
        facts["seed"] = home.seed if seed is None else seed
        place = out or Path(target) / "evals"
        return _local(directory, label, home.machine, environment, facts, common, place, show)
    finally:
        show.close()
        if acting is not None:
            acting.close()


def _agent(command: str, show: Progress) -> Any:
    """The outside program, None for none."""
    if not command:
        return None
    from puna.agents.outside import Outside

    return Outside(command, note=show.note)


def _files(words: Sequence[str]) -> dict[str, str]:
    """The hashes of files that a command names: another program is another agent."""
    return {word: sha256_file(Path(word)) for word in words if os.path.isfile(word)}


def _by_role(env: Any, agent: Any) -> dict[str, Any]:
    return dict.fromkeys(env.roles, agent) if agent is not None else {}


def _env_facts(env: Any, n: int, show: Progress) -> dict[str, Any]:
    if fewer := all_there_are(env, n):
        show.note(fewer)
    return {"env": env.content_hash, "env_seed": env.seed}


def _local(
    directory: Path,
    label: str,
    machine: Machine,
    env: Any,
    facts: dict[str, Any],
    common: dict[str, Any],
    root: Path,
    show: Progress,
) -> Evaluation:
    from puna.core.threads import set_threads
    from puna.engine.policy import SamplingParams
    from puna.models import load as load_weights
    from puna.text.tokenizer import Tokenizer

    facts |= {"threads": set_threads(machine.threads), "dtype": machine.dtype}
    if machine.weights != "auto":
        facts["decode_weights"] = machine.weights
    model, _ = load_weights(directory)
    facts["weights"] = weights_hash(directory)
    where = _place(root, label, env.name, facts)
    tokenizer = Tokenizer.load(directory).require_chat(directory)
    sampler, meet = local_policy(place_on(model, machine), tokenizer, facts["seed"])
    with locked(where):
        result = evaluate(
            env,
            dict.fromkeys(env.roles, sampler),
            params=SamplingParams(facts["max_tokens"], facts["temperature"]),
            meet=meet,
            journal=where / "episodes.jsonl",
            policy=facts["weights"],
            progress=lambda d, t, m: show.step(f"eval {label}", d, t, {"score": m}),
            **common,
        )
        return _finish(label, result, where, facts)


def _endpoint(
    url: str,
    env: Any,
    facts: dict[str, Any],
    common: dict[str, Any],
    name: str,
    api_key_env: str,
    out: Path | None,
    show: Progress,
) -> Evaluation:
    from puna.engine.policy import SamplingParams
    from puna.engine.remote import RemoteChat, RemoteConfig, served

    config = served(
        RemoteConfig(
            url=url,
            model=name or None,
            api_key_env=api_key_env or None,
            concurrency=common["concurrency"],
        )
    )
    label = name or url.split("//", 1)[-1]
    facts |= {"url": url, "model": config.model}
    where = _place(out or Path("evals"), label, env.name, facts)
    with locked(where):
        result = evaluate(
            env,
            {role: RemoteChat(config) for role in env.roles},
            params=SamplingParams(facts["max_tokens"], facts["temperature"]),
            journal=where / "episodes.jsonl",
            key=("eval", facts["seed"]),  # a seat over an endpoint has no other seed
            progress=lambda d, t, m: show.step(f"eval {label}", d, t, {"score": m}),
            **common,
        )
        return _finish(label, result, where, facts)


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
            **result.extras(),
        },
        "eval",
    )
    return Evaluation(label, result, where)


def print_result(found: Evaluation) -> None:
    """The table of an evaluation: every role, every slice, pass@k and pass^k, what failed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    result = found.result
    console = Console()
    title = f"{found.policy} on {result.env['name']} {result.env['version']} ({result.env['hash']})"
    table = Table(title=Text(printable(title)), title_justify="left")
    between = " " if console.width >= 100 else "\n"
    for column in ("slice", f"score{between}[95 %]", "tasks", "k", "pass@k", "pass^k"):
        table.add_column(Text(column), no_wrap=column != "slice")
    rows = [("all" if len(result.scores) == 1 else r, s) for r, s in result.scores.items()]
    for name, score in [*rows, *result.by_tag.items()]:
        estimates = (score.value, score.pass_at.get(score.k), score.pass_hat.get(score.k))
        value, at, hat = (Text(str(e or "-").replace(" ", between, 1)) for e in estimates)
        sizes = str(score.n_tasks), str(score.k)
        table.add_row(Text(printable(name)), value, *sizes, at, hat)
    console.print(table)
    if result.turns is not None:
        console.print(Text(f"turns: {result.turns.line()}; {result.tokens:.0f} tokens an answer"))
    if result.majority is not None:
        console.print(Text(f"majority of {result.score.k}: {result.majority}"))
    score = result.score
    if score.n_infra or score.n_invalid:
        console.print(
            f"not scored: {score.n_infra} infra, {score.n_invalid} invalid; "
            f"with those counted 0 the score is {score.counted_zero:.3f}"
        )
        for reason in failures(next(iter(result.outcomes.values())))[:3]:
            console.print(f"  {printable(reason[:200])}", markup=False)
    if "cost" in result.usage:
        console.print(f"cost: {result.usage['cost']:.4f}")
    place = printable(f"{found.directory}/episodes.jsonl")
    console.print(f"episodes: {place}", markup=False, highlight=False)
