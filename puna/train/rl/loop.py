"""The rl stage: it builds the engine, binds roles to policies, collects groups, learns from them.

Step t learns from episodes sampled by the weights after max(0, t - staleness) updates: with
staleness 0 the loop is synchronous; above it the engine works in a thread of its own, one or more
steps ahead, and which weights sampled what is still a function of the step alone.
"""

from __future__ import annotations

import copy
import math
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from puna.core.errors import UserError, nearest
from puna.core.files import write_json
from puna.core.journal import Journal
from puna.core.stage import StageContext, StageError
from puna.engine.local import Engine
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler, Rendezvous
from puna.evals.playing import failed_share, held_out_score
from puna.gym.audit import Audit
from puna.gym.audit.records import require
from puna.gym.environment import Environment
from puna.gym.loop import Agent, Rollout, identity
from puna.gym.registry import load_environment
from puna.gym.seat import Policy
from puna.gym.trajectory import save_artifacts
from puna.gym.verify import has_shadow
from puna.gym.watch.signs import Finding
from puna.gym.watch.watch import Watch
from puna.models.decoder import Decoder
from puna.models.lora import LoraConfig, learned, without
from puna.text.tokenizer import Tokenizer
from puna.train.data import env_settings, train_tasks
from puna.train.loop import StopTraining, Trainer, at_least_one
from puna.train.loss import PolicyLoss, policy_loss
from puna.train.optim import OptimConfig, learning_rate, update
from puna.train.rl.advantages import ALGORITHMS, REJECTING
from puna.train.rl.batch import MicroBatch, micro_batches
from puna.train.rl.collect import Collected, Collector
from puna.train.rl.pool import Pool, PoolConfig
from puna.train.rl.rows import Row, sampled_tokens, weigh
from puna.train.start import source_of, starting_model


@dataclass(frozen=True)
class Config:
    """Group-relative RL. A step plays `prompts` tasks `samples` times and updates `updates` times.

    `env` is an environment's name, or a table with `id` and its settings. Groups whose rewards are
    all equal are replaced, in up to `refills` rounds. Tasks come in their order, or from a `pool`
    that keeps those which are solved now and then. `frozen` maps other roles to model
    directories. `max_failed` is the share of Infra and Invalid outcomes that stops the stage.
    The reward is audited before the first training on it; `unaudited` goes on in spite of holes.
    `alarm` says what follows where the reward is being gamed (docs/alarm.md). `agent` is the
    command of an outside program through which the trained roles act, at most `programs` at once,
    or `samples` where that is more.
    """

    env: str | Mapping[str, Any]
    init: Path | None = None
    lora: LoraConfig | None = None
    steps: int = 100
    prompts: int = 16
    samples: int = 8
    refills: int = 2
    pool: PoolConfig | None = None
    algorithm: Literal["grpo", "rloo", "raft"] = "grpo"
    updates: int = 1
    max_tokens: int = 32
    temperature: float = 1.0
    staleness: int = 0
    replay_routes: bool = True
    roles: Mapping[str, float] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    loss: PolicyLoss = PolicyLoss()
    optim: OptimConfig = OptimConfig(lr=1e-4, warmup=5, schedule="constant", weight_decay=0.0)
    micro_tokens: int = 0
    slots: int = 256
    eval_every: int = 0
    eval_tasks: int = 200
    save_every: int = 25
    max_failed: float = 0.5
    keep_episodes: int = 50
    unaudited: bool = False
    alarm: Literal["warn", "stop", "off"] = "warn"
    agent: str = ""
    programs: int = 8

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that leaves nothing to do."""
        at_least_one(self, "steps", "prompts", "samples", "updates", "max_tokens", "slots")
        at_least_one(self, "eval_tasks", "save_every", "programs")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, must be above 0")
        if min(self.staleness, self.refills) < 0:
            raise ValueError("staleness and refills must be 0 or more")
        for role, weight in self.roles.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"roles.{role} is {weight}, must be 0 or more")


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Train the parent's model (or `init`) on `env`. Raises StageError when it cannot go on."""
    source = source_of(ctx, config.init, "sft")
    name, settings = env_settings(config.env)
    env = load_environment(name, settings, ctx.seed)
    if unknown := {*config.frozen, *config.roles} - set(env.roles):
        hint = nearest(sorted(unknown)[0], env.roles)
        raise UserError(f"{ctx.id}: {env.name} has no role '{sorted(unknown)[0]}'", hint)
    if set(config.frozen) == set(env.roles):
        raise UserError(f"{ctx.id}.frozen names every role", "leave one to train")
    for role, directory in config.frozen.items():
        if not Path(directory).expanduser().exists():
            raise UserError(f"{ctx.id}.frozen.{role}: no directory {directory}", "check the path")
    train_tasks(env, 1)
    audited = _audit(ctx, name, settings, config.unaudited)
    model, tokenizer = starting_model(ctx, source, config.lora)
    inputs = f"environment {identity(env)['hash']}"
    pace = (config.optim, config.steps, config.save_every)
    trainer = Trainer(ctx, model, tokenizer, *pace, inputs, source)
    loop = _Loop(ctx, config, env, trainer)
    try:
        trainer.run(loop.backward, "reward", loop.after, again=False)
    finally:
        loop.close()
    found: dict[str, Any] = {"env": env.name, "env_version": env.version}
    found |= {"audit": audited.id, "audit_passed": audited.passed}
    used, seen = trainer.state.get("groups", (0, 0))
    found |= {"useful_groups": round(used / seen, 4) if seen else None}
    if alarms := trainer.state.get("alarms"):
        found["alarms"] = alarms
    if config.pool is not None:
        found |= {"episodes": trainer.state["pool"]["played"], "ended": loop.ended}
    if loop.stopped is not None:
        trusted = max(0, loop.stopped.since - config.staleness)
        found["stopped_by_alarm"] = {
            **loop.stopped.to_json(),
            "weights_of_step": trainer.rewind(trusted, source),
        }
    return trainer.finish() | found


def _audit(ctx: StageContext, name: str, settings: Mapping[str, Any], allow: bool) -> Audit:
    """The record of the reward's audit, kept with the stage too; see `records.require`."""
    said: list[str] = []

    def tell(probe: str) -> None:
        if not said:
            ctx.progress.note(f"{ctx.id}: auditing the reward of {name} before the first training")
        said.append(probe)

    found = require(name, settings, allow=allow, progress=tell)
    if not found.passed:
        holes = ", ".join(f.probe for f in found.holes)
        ctx.progress.note(f"{ctx.id}: trains on a reward whose audit failed ({holes})")
    write_json(ctx.dir / "audit.json", found.to_json(), "audit")
    return found


_Judged = tuple[MicroBatch, Tensor | None, Tensor | None]
"""A micro-batch, the trainer's own log-probabilities of it, and the reference's, if needed."""


class _Loop:
    """What a step needs besides the trainer: the source of episodes, the watch, their logs."""

    def __init__(
        self, ctx: StageContext, config: Config, env: Environment, trainer: Trainer
    ) -> None:
        self.ctx, self.config, self.env, self.trainer = ctx, config, env, trainer
        self.log = Journal(ctx.dir / "episodes.jsonl", "episodes")
        self.findings = Journal(ctx.dir / "alarms.jsonl", "alarms")
        self.quarantine = Journal(ctx.dir / "quarantine.jsonl", "quarantine")
        self.watch: Watch | None = None
        self.stopped: Finding | None = None
        self.ended = ""
        if config.alarm != "off":
            self.watch = Watch(_trained(config, env), has_shadow(env), env.tolerance)
            self.watch.load_state_dict(trainer.state.get("watch", {}))
        self.reference: Decoder | None = None
        if config.loss.kl > 0:  # under adapters the first weights are still there
            start = source_of(ctx, config.init, "sft")
            self.reference = trainer.model
            if not config.lora:
                self.reference = starting_model(ctx, start)[0].eval().requires_grad_(False)
        self.outside: Outside | None = None
        self.agents: dict[str, Agent] = {}
        if config.agent:
            from puna.agents.outside import Outside

            tell = ctx.progress.note
            self.outside = Outside(config.agent, note=lambda line: tell(f"{ctx.id}: {line}"))
            self.agents = dict.fromkeys(_trained(config, env), self.outside)
        if config.staleness > 0:
            trainer.lanes.count = 1  # a thread of its own rolls out meanwhile
        source = _Ahead if config.staleness > 0 else _InStep
        self.source = source(ctx, config, env, trainer, self.agents)

    def close(self) -> None:
        """End threads, event loops and programs."""
        self.source.close()
        if self.outside is not None:
            self.outside.close()

    def backward(self, step: int) -> dict[str, float]:
        """Collect step `step`, run backward for its first update (and make the further ones)."""
        got = self.source.get(step)
        figures, state = dict(got.figures), self.trainer.state
        state["pool"], self.ended = got.pool, got.ended
        if got.ended:
            self.ctx.progress.note(f"{self.ctx.id}: ended after {step} steps: {got.ended}")
            raise StopTraining(figures)
        used, seen = state.get("groups", (0, 0))
        state["groups"] = [used + len(got.groups), seen + len(got.seen)]
        if failed_share(figures) > self.config.max_failed:
            raise StageError(
                f"{self.ctx.id}: {failed_share(figures):.0%} of outcomes at step {step + 1} were "
                f"not scored: {got.failure}"
            )
        self._keep(step, got)
        if self.watch is not None:
            self._look(self.watch, step, got, figures)
        name = self.config.algorithm
        rows = weigh(got.rows, ALGORITHMS[name], self.config.roles, name in REJECTING)
        figures["rows"] = len(rows)
        figures["tokens"] = figures.get("sampled_tokens", 0)
        figures["staleness"] = step - min((r.version for r in rows), default=step)
        if self.config.loss.kl == 0:  # no term of theirs but the count of their tokens
            learned = [r for r in rows if r.advantage * r.weight != 0]
        else:
            learned = rows
        if learned:
            figures |= self.learn(learned, sampled_tokens(rows), step)
        return figures

    def _look(self, watch: Watch, step: int, got: Collected, figures: dict[str, float]) -> None:
        """Note what the watch finds, set episodes aside; StopTraining where the recipe says so."""
        found, state = watch.update(step, got.seen), self.trainer.state
        for finding in found:
            self.findings.append(finding.to_json())
            self.ctx.progress.note(f"{self.ctx.id}: {finding.line()}")
        for sign, said in watch.aside(got.seen):
            record = said.trajectory.to_json(tokens=False)
            self.quarantine.append({"step": step + 1, "sign": sign, **record})
        alarms = [finding for finding in found if finding.level == "alarm"]
        state["alarms"] = [*state.get("alarms", []), *(a.to_json() for a in alarms)]
        state["watch"] = watch.state_dict()
        if (trusted := watch.trusted()) is not None:
            self.trainer.spare = max(0, trusted - self.config.staleness)
        if alarms and self.config.alarm == "stop":
            self.stopped = alarms[0]
            raise StopTraining(figures)

    def learn(self, rows: list[Row], total: int, step: int) -> dict[str, float]:
        """All updates of a step but the last, whose optimiser step is the trainer's.

        The loss is divided by `total` tokens, the figures are means over the tokens of `rows`.
        Raises StageError where an update's gradient is not finite.
        """
        model, config = self.trainer.model, self.config
        seen = sampled_tokens(rows)

        def first() -> tuple[list[_Judged], dict[str, float]]:
            budget, even = self.trainer.micro_tokens(config.micro_tokens), self.trainer.lanes.even
            cut = micro_batches(rows, budget, config.replay_routes, model.device, even)
            judged = self._judged(list(cut))
            return judged, self._pass(judged, total, seen)

        judged, figures = self.trainer.fit(first)
        gap = figures["logprob_gap"]  # engine against trainer, at the step's first weights
        for number in range(1, config.updates):
            lr = learning_rate(config.optim, step, config.steps)
            norm = update(model, self.trainer.optimizer, config.optim, lr)
            if not math.isfinite(norm):
                found = f"the gradient norm of update {number} is {norm:.4g}"
                raise self.trainer.not_finite(f"{found} at step {step + 1}")
            figures = self._pass(judged, total, seen)
        return figures | {"logprob_gap": gap}

    def _pass(self, judged: list[_Judged], total: int, seen: int) -> dict[str, float]:
        """Gradients of one update, and its figures."""
        model, config = self.trainer.model, self.config

        def learn(given: _Judged) -> tuple[Tensor, tuple[float, dict[str, float]]]:
            batch, proximal, reference = given
            share = len(batch.targets_M) / seen
            logp = batch.logprobs(model, config.temperature)
            terms = policy_loss(
                logp,
                batch.sampled_logp_M,
                batch.advantages_M * batch.weights_M,
                config.loss,
                proximal_logp_M=proximal,
                reference_logp_M=reference,
            )
            loss = terms.loss / total
            return loss, (
                terms.sampler_gap,
                {
                    "loss": float(loss.detach()),
                    "clipped": terms.clipped * share,
                    "surprisal": -float(logp.detach().sum()) / seen,
                    "sampler_kl": terms.sampler_kl * share,
                    "kl": terms.reference_kl * share,
                },
            )

        gaps, found = zip(*self.trainer.lanes.backward(judged, learn), strict=True)
        return {"logprob_gap": max(gaps)} | {k: sum(f[k] for f in found) for k in found[0]}

    def _judged(self, batches: list[MicroBatch]) -> list[_Judged]:
        """Micro-batches with what the trainer, before its updates, and the reference say of them.

        The first is needed where there is more than one update.
        """
        proximal = reference = list[Tensor | None]([None] * len(batches))
        lanes, config = self.trainer.lanes, self.config

        def of(model: Decoder) -> list[Tensor | None]:
            return [*lanes.score(batches, lambda b: b.logprobs(model, config.temperature))]

        if config.updates > 1:
            proximal = of(self.trainer.model)
        if self.reference is not None:
            with without(self.reference):
                reference = of(self.reference)
        return list(zip(batches, proximal, reference, strict=True))

    def _keep(self, step: int, got: Collected) -> None:
        """One group in the episode log, evenly over the stage."""
        every = max(1, self.config.steps // max(1, self.config.keep_episodes))
        if step % every == 0:
            for group in got.seen[:1]:
                for trajectory in group.trajectories[:2]:
                    save_artifacts(trajectory, self.ctx.dir / "artifacts")
                    self.log.append({"step": step + 1, **trajectory.to_json()})

    def after(self, step: int) -> dict[str, float] | None:
        """Tell the source about the new weights; score held-out tasks when it is time."""
        self.source.updated(step)
        every = self.config.eval_every
        if not every or (step % every and step != self.config.steps):
            return None
        policies, meet = _policies(
            self.ctx, self.config, self.env, self.trainer.model.eval(), self.trainer.tokenizer, step
        )
        score = held_out_score(
            self.ctx,
            self.env,
            policies,
            meet,
            _trained(self.config, self.env),
            tasks=self.config.eval_tasks,
            max_tokens=self.config.max_tokens,
            agents=self.agents,
            programs=self.config.programs,
        )
        self.trainer.model.train()
        return {"held_out": score}


def _trained(config: Config, env: Environment) -> list[str]:
    return [role for role in env.roles if role not in config.frozen]


def _policies(
    ctx: StageContext,
    config: Config,
    env: Environment,
    model: Decoder,
    tokenizer: Tokenizer,
    version: int,
) -> tuple[dict[str, Policy], Rendezvous]:
    """A policy for every role: the model in training, or a frozen one the config names."""
    meet = Rendezvous()
    engine = Engine(model, tokenizer, ctx.seed, config.slots)
    engine.version = version
    out: dict[str, Policy] = {role: LocalSampler(engine, meet) for role in env.roles}
    for role, directory in config.frozen.items():
        other, tok = starting_model(ctx, Path(directory).expanduser())
        out[role] = LocalSampler(Engine(other.eval(), tok, ctx.seed, config.slots), meet)
    return out, meet


def _collector(
    ctx: StageContext,
    config: Config,
    env: Environment,
    model: Decoder,
    trainer: Trainer,
    agents: Mapping[str, Agent],
) -> tuple[Collector, Engine]:
    policies, meet = _policies(ctx, config, env, model, trainer.tokenizer, 0)
    trained = _trained(config, env)
    params = SamplingParams(config.max_tokens, config.temperature)
    wave = config.programs if agents else max(config.slots, config.prompts * config.samples)
    rollout = Rollout(
        env,
        policies,
        params,
        agents=agents,
        meet=meet,
        wave=wave,
        workers=ctx.machine.workers,
        shadow=config.alarm != "off",
    )
    sampler = policies[trained[0]]
    assert isinstance(sampler, LocalSampler)
    pool = None
    if config.pool is not None:
        pool = Pool(config.pool, env, trained[0], config.prompts, config.steps)
        pool.load_state_dict(trainer.state.get("pool", {}))
    collector = Collector(rollout, config.prompts, config.samples, config.refills, trained, pool)
    return collector, sampler.engine


class _InStep:
    """Staleness 0: the engine samples from the very parameters in training, between updates."""

    def __init__(
        self,
        ctx: StageContext,
        config: Config,
        env: Environment,
        trainer: Trainer,
        agents: Mapping[str, Agent],
    ) -> None:
        self.collector, self.engine = _collector(ctx, config, env, trainer.model, trainer, agents)
        self.engine.version = trainer.step

    def get(self, step: int) -> Collected:
        """Roll out now."""
        return self.collector.collect(step)

    def updated(self, step: int) -> None:
        """The parameters have seen `step` updates."""
        self.engine.version = step

    def close(self) -> None:
        self.collector.close()


class _Ahead:
    """Staleness s: a thread rolls out step t as soon as the weights of step t - s exist."""

    patience_s = 60.0

    def __init__(
        self,
        ctx: StageContext,
        config: Config,
        env: Environment,
        trainer: Trainer,
        agents: Mapping[str, Agent],
    ) -> None:
        self.config, self.trainer = config, trainer
        self.weights: queue.Queue[tuple[int, dict[str, Tensor]] | None] = queue.Queue()
        self.ready: queue.Queue[Collected | BaseException] = queue.Queue()
        self.kept: dict[int, dict[str, Tensor]] = {}
        self.closing = False
        model = copy.deepcopy(trainer.model).eval()
        self.collector, self.engine = _collector(ctx, config, env, model, trainer, agents)
        for name, tensor in trainer.extra.items():
            number, key = name.split("/", 1)
            self.kept.setdefault(int(number), {})[key] = tensor
        for version in sorted(self.kept):
            self.weights.put((version, self.kept[version]))
        self.updated(trainer.step)
        self.thread = threading.Thread(target=self._produce, daemon=True, name="puna-rollout")
        self.thread.start()

    def _produce(self) -> None:
        try:
            have = -1
            for step in range(self.trainer.step, self.config.steps):
                while have < max(0, step - self.config.staleness):
                    item = self.weights.get()
                    if item is None:
                        return
                    have = item[0]
                    self.engine.load_weights(item[1], have)
                if self.closing:
                    return
                self.ready.put(self.collector.collect(step))
        except BaseException as error:
            self.ready.put(error)

    def get(self, step: int) -> Collected:
        """Wait for the rollouts of `step`. Raises StageError after an hour without them."""
        try:
            got = self.ready.get(timeout=3600)
        except queue.Empty:
            raise StageError(f"waited an hour for the rollouts of step {step + 1}") from None
        if isinstance(got, BaseException):
            raise got
        return got

    def updated(self, step: int) -> None:
        """Hand over a copy of the weights; keep those a resumed run would need."""
        copied = {k: v.detach().clone() for k, v in learned(self.trainer.model).items()}
        self.kept[step] = copied
        self.weights.put((step, copied))
        oldest = max(0, step - self.config.staleness)
        self.kept = {v: w for v, w in self.kept.items() if v >= oldest}
        self.trainer.extra = {
            f"{v}/{k}": t for v, w in self.kept.items() if v < step for k, t in w.items()
        }

    def close(self) -> None:
        """End the thread, in the middle of a rollout if need be.

        One that does not end within `patience_s` is left to the process's end: its event loop is
        running and cannot be closed, and saying so would hide the error that brought us here.
        """
        self.closing = True
        self.weights.put(None)
        deadline = time.monotonic() + self.patience_s
        while self.thread.is_alive() and time.monotonic() < deadline:
            self.collector.cancel()  # again and again: a rollout may have begun only just now
            self.thread.join(timeout=0.2)
        if not self.thread.is_alive():
            self.collector.close()
