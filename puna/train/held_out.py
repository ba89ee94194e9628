"""The held-out score of a stage that learns from rows, taken on the way; its best weights are kept.

`HeldOut(ctx, Watch(100, 200, 32, 3), env, trainer).after(step)` takes it when it is due.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from puna.core.stage import StageContext
from puna.evals.evaluate import local_policy
from puna.evals.playing import held_out_score
from puna.gym.environment import Environment
from puna.models.lora import learned, load_learned
from puna.train.loop import StopTraining, Trainer


@dataclass(frozen=True)
class Watch:
    """Every `every` steps and at the end, `tasks` tasks; `patience` without a new best end it."""

    every: int
    tasks: int
    max_tokens: int
    patience: int


class HeldOut:
    """The held-out score of a stage that learns from rows; its best weights, which end the stage.

    Both live in the trainer's state and extra tensors, so a resumed stage has them too.
    """

    def __init__(
        self, ctx: StageContext, watch: Watch, env: Environment | None, trainer: Trainer
    ) -> None:
        self.ctx, self.watch, self.env, self.trainer = ctx, watch, env, trainer

    def after(self, step: int) -> dict[str, float] | None:
        """The held-out score when it is due; StopTraining once it has stopped rising.

        Raises StageError where nothing held out was scored.
        """
        every = self.watch.every
        if self.env is None or not every or (step % every and step != self.trainer.steps):
            return None
        score = self._score(self.env)
        state = self.trainer.state
        if score > state.get("best", -math.inf):
            state["best"], state["best_step"], state["waited"] = score, step, 0
            weights = learned(self.trainer.model)
            self.trainer.extra = {k: v.detach().clone() for k, v in weights.items()}
        else:
            state["waited"] = state.get("waited", 0) + 1
        if self.watch.patience and state["waited"] >= self.watch.patience:
            raise StopTraining({"held_out": score})
        return {"held_out": score}

    def _score(self, env: Environment) -> float:
        model = self.trainer.model.eval()
        sampler, meet = local_policy(model, self.trainer.tokenizer, self.ctx.seed)
        score = held_out_score(
            self.ctx,
            env,
            dict.fromkeys(env.roles, sampler),
            meet,
            env.roles,
            tasks=self.watch.tasks,
            max_tokens=self.watch.max_tokens,
        )
        model.train()
        return score

    def finish(self) -> dict[str, Any]:
        """Put the best weights, if any were scored, into the model; what the result says of it."""
        state = self.trainer.state
        if "best" in state:
            load_learned(self.trainer.model, self.trainer.extra)
        return {
            "best_held_out": state.get("best"),
            "best_step": state.get("best_step"),
            "stopped_rising": bool(state.get("stopped")),
        }
