"""The sft stage: imitation of conversations, the loss on the assistant's tokens only.

Rows come from `data = "chats.jsonl"`, from an environment's oracle (`env`, `demos`) or from the
model's own answers (`rows = "right"`). With `patience` the stage ends once the held-out score has
stopped rising, and keeps the best weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from puna.core.errors import UserError
from puna.core.files import sha256_json
from puna.core.stage import StageContext
from puna.gym.environment import Environment
from puna.gym.loop import identity
from puna.gym.registry import load_environment
from puna.models.decoder import Decoder
from puna.models.lora import LoraConfig
from puna.text.aligned import begins
from puna.text.images import Picture, images_of, pictures_in
from puna.text.packing import IGNORE, Packed, pack_whole
from puna.text.template import Rendered, render
from puna.text.tokenizer import Tokenizer
from puna.train.data import Chat, demonstrations, env_settings, practised, read_messages
from puna.train.drawn import DrawConfig, draw_rows
from puna.train.held_out import HeldOut, Watch
from puna.train.loop import Trainer, at_least_one, epoch_rows, packed_inputs
from puna.train.loss import next_token_loss
from puna.train.optim import OptimConfig, require
from puna.train.prune import PruneConfig, prune
from puna.train.start import source_of, starting_model


@dataclass(frozen=True)
class Config:
    """`data` is a file of messages; else `demos` rows come from the oracle of `env`.

    With `rows = "practice"` they come from its practice instead: calls of its tools that teach what
    they do, not what is right. With "right" and "pairs" the model itself makes them of `demos`
    train tasks, as `draw` says: its right answers, or pairs for self-correction (docs/spoc.md).

    `prune` leaves out most of what the oracle shows of tasks that the model solves already.

    A step sees `batch_tokens` tokens in packed rows of `row_length`; `steps` 0 is once through all.
    Every `eval_every` steps `eval_tasks` held-out tasks of `env` are scored; `patience` scores
    without a new best end it.
    """

    data: Path | None = None
    env: str | Mapping[str, Any] | None = None
    demos: int = 1000
    rows: Literal["oracle", "practice", "right", "pairs"] = "oracle"
    draw: DrawConfig = DrawConfig()
    prune: PruneConfig | None = None
    init: Path | None = None
    lora: LoraConfig | None = None
    steps: int = 200
    batch_tokens: int = 4096
    row_length: int = 128
    optim: OptimConfig = OptimConfig(lr=5e-4, warmup=10, weight_decay=0.01)
    micro_tokens: int = 0
    eval_every: int = 0
    eval_tasks: int = 200
    max_tokens: int = 32
    patience: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 1, and for nothing to prune."""
        at_least_one(self, "demos", "batch_tokens", "row_length")
        at_least_one(self, "eval_tasks", "max_tokens", "save_every")
        require(self.steps >= 0, self, "steps", "0 or more")
        if self.prune and (self.data or self.rows != "oracle"):
            raise ValueError('prune needs rows = "oracle" and no data')


def run(ctx: StageContext, config: Config) -> dict[str, Any]:
    """Fine-tune the parent's model (or `init`). Raises UserError for missing or broken data."""
    source = source_of(ctx, config.init, "pretrain")
    env = None
    if config.env is not None:
        env = load_environment(*env_settings(config.env), ctx.seed)
    model, tokenizer = starting_model(ctx, source, config.lora)
    pruned, figures = frozenset[int](), dict[str, Any]()
    if config.prune and env is not None:
        pruned, figures = prune(ctx, config.prune, env, model, tokenizer, config.demos)
    chats = _chats(ctx, config, env, model, tokenizer, pruned)
    packed, left_out = _pack(chats, tokenizer, config.row_length)
    data_hash = sha256_json([[*(m.to_json() for m in c.messages), *c.context] for c in chats])
    inputs = f"rows {data_hash[:16]}"
    if env is not None:
        inputs += f", environment {identity(env)['hash']}"
    per_step = max(1, config.batch_tokens // config.row_length)
    steps = config.steps or -(-len(packed.ids_NT) // per_step)
    pace = (config.optim, steps, config.save_every)
    trainer = Trainer(ctx, model, tokenizer, *pace, inputs, source)
    loop = _Loop(ctx, config, env, trainer, packed)
    trainer.run(loop.backward, "loss", loop.after)
    scored = loop.finish()
    return trainer.finish() | {
        "rows": len(chats),
        "rows_left_out": left_out,
        "data_hash": data_hash,
        **figures,
        **scored,
    }


def _chats(
    ctx: StageContext,
    config: Config,
    env: Environment | None,
    model: Decoder,
    tokenizer: Tokenizer,
    left_out: Set[int] = frozenset(),
) -> list[Chat]:
    if config.data is not None:
        return read_messages(config.data)
    if env is None:
        raise UserError(f"{ctx.id}: no data", f"give --set {ctx.id}.data=FILE or {ctx.id}.env=NAME")
    if config.rows == "practice":
        return practised(env, config.demos)
    if config.rows in ("right", "pairs"):
        path = ctx.dir / "rows.jsonl"  # a function of weights, seed and settings: drawn once
        if not path.exists():
            draw_rows(ctx, path, env, model, tokenizer, config.demos, config.draw, config.rows)
        return read_messages(path)
    return demonstrations(env, config.demos, left_out)


def _pack(chats: list[Chat], tokenizer: Tokenizer, row_length: int) -> tuple[Packed, int]:
    """Packed rows of whole conversations; how many were too long and left out.

    Raises UserError where rows hold images and the model reads none.
    """
    ids, masks, pictures = [], [], []
    for number, chat in enumerate(chats):
        if tokenizer.tiling is None and next(images_of(chat.messages), None) is not None:
            what = f"conversation {number} holds an image, and this model reads none"
            raise UserError(what, "take a model with a vision encoder, or rows of text")
        rendered = render(tokenizer, chat.messages, tools=chat.tools)
        if len(rendered.ids) <= row_length + 1:
            ids.append(rendered.ids)
            masks.append(_learned(rendered, chat, tokenizer, number))
            pictures.append(pictures_in(tokenizer, chat.messages, rendered.ids))
    if not ids:
        raise UserError(f"no conversation fits row_length {row_length}", "raise sft.row_length")
    packed = pack_whole(ids, row_length, masks=masks)
    return replace(packed, pictures=pictures), len(chats) - len(ids)


def _learned(rendered: Rendered, chat: Chat, tokenizer: Tokenizer, number: int) -> list[bool]:
    """The mask without what stands in the row as context only.

    Raises UserError where that cannot be told among the tokens.
    """
    mask = list(rendered.mask)
    if not chat.context:
        return mask
    end = len(mask) - mask[::-1].index(True)
    start = end
    while start and mask[start - 1]:
        start -= 1
    found = begins(tokenizer, rendered.ids[start:end], chat.messages[-1].text)
    if found is None:
        what = f"conversation {number}: its tokens do not spell the text that has weights"
        raise UserError(what, "leave out the weights, or reasoning and calls beside them")
    for token, at in enumerate(found, start):
        if any(low <= at < high for low, high in chat.context):
            mask[token] = False
    return mask


def _shown(packed: Packed, rows: np.ndarray[Any, Any]) -> list[tuple[int, Picture]]:
    """The pictures in `rows` of the packed documents, each with the number of its row there."""
    out: list[tuple[int, Picture]] = []
    if not any(packed.pictures):
        return out
    for row, documents_T in enumerate(packed.documents_NT[rows]):
        numbers, starts = np.unique(documents_T, return_index=True)
        for number, start in zip(numbers.tolist(), starts.tolist(), strict=True):
            if number >= 0:
                out += [(row, replace(p, at=p.at + start)) for p in packed.pictures[number]]
    return out


class _Loop(HeldOut):
    """Batches of packed rows, and the held-out score that may end the stage."""

    def __init__(
        self,
        ctx: StageContext,
        config: Config,
        env: Environment | None,
        trainer: Trainer,
        packed: Packed,
    ) -> None:
        every, tasks = config.eval_every, config.eval_tasks
        watch = Watch(every, tasks, config.max_tokens, config.patience)
        super().__init__(ctx, watch, env, trainer)
        self.config, self.packed = config, packed
        self.rows = max(1, config.batch_tokens // config.row_length)

    def batch(self, step: int) -> np.ndarray[Any, Any]:
        """Row numbers of a step."""
        ctx = self.ctx
        return epoch_rows(ctx.seed, ctx.id, step, self.rows, len(self.packed.ids_NT))

    def backward(self, step: int) -> dict[str, float]:
        """Mean loss over the assistant's tokens of one batch, gradients left in the model."""
        chosen, model, config = self.batch(step), self.trainer.model, self.config
        total = max(1, int((self.packed.targets_NT[chosen] != IGNORE).sum()))

        def read(part: np.ndarray[Any, Any]) -> tuple[torch.Tensor, float]:
            ids, positions, documents = packed_inputs(self.packed, part, model)
            want = torch.from_numpy(self.packed.targets_NT[part]).long().to(model.device)
            images = model.look(ids.shape, _shown(self.packed, part))
            hidden = model(ids, positions, documents, images=images)
            learn = want != IGNORE
            loss = next_token_loss(model, hidden[learn], want[learn])
            return loss / total, float(loss.detach())

        parts = self.trainer.cut(chosen, config.row_length, config.micro_tokens)
        loss_sum = sum(self.trainer.lanes.backward(parts, read))
        tokens = int((self.packed.documents_NT[chosen] >= 0).sum())
        return {"loss": loss_sum / total, "tokens": tokens}
