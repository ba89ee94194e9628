"""`puna plan`: what a model takes in memory by its shape alone, whether it fits, what would fit.

`plan("llama4-scout", precision="int4", context=131072, device="h100").text()`; no weights are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import UserError, nearest
from puna.core.runs import find_model
from puna.export.device import RESERVED, Device, find_device
from puna.export.memory import (
    WIDTH,
    Precision,
    cache_bytes,
    generation,
    naive_cache_bytes,
    training,
    weight_bytes,
)
from puna.export.published import Published, published
from puna.models.config import ModelConfig
from puna.models.directory import read_shape
from puna.models.hf import read_config
from puna.models.presets import preset, preset_names

_CONTEXT = 8192  # what is planned where nobody says
_MOST_ROWS = 1 << 20


@dataclass(frozen=True)
class Part:
    """One line of the table."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Plan:
    """What a model takes and what would fit; bytes, tokens, rows. `how` of a part says its formula.

    `reading` is the peak while the engine reads a prompt that fills the context, in blocks, and
    `longest_prompt` what fits so; both are 0 in training. `longest_context` and `most_rows` are 0
    where nothing fits. `naive_cache` is the cache's size if local layers kept every token.
    """

    model: str
    config: ModelConfig
    precision: Precision
    train: bool
    context: int
    rows: int
    parts: tuple[Part, ...]
    naive_cache: int
    reading: int
    device: Device
    longest_context: int
    longest_prompt: int
    most_rows: int
    devices_for_weights: int
    facts: Published | None

    @property
    def total(self) -> int:
        """Bytes at the peak, the sum of the parts."""
        return sum(p.bytes for p in self.parts)

    @property
    def fits(self) -> bool:
        """Whether the device has room for `total` beside what its own programs need."""
        return self.total <= self.device.usable

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data, for `puna plan --json`."""
        data = asdict(self)
        data["parameters"] = self.config.num_parameters()
        data["active_parameters"] = self.config.active_parameters()
        return data | {"total": self.total, "fits": self.fits, "reserved": RESERVED}

    def text(self) -> str:
        """The table and the verdict, for a person."""
        config = self.config
        counts = f"{config.num_parameters():,} parameters"
        if config.num_experts:
            counts += f", {config.active_parameters():,} of them for a token"
        task = "training on micro-batches of" if self.train else "decoding"
        rows = f"{self.rows:,} row{'s' * (self.rows > 1)}"
        lines = [f"{self.model}: {counts}", f"{task} {rows} of {self.context:,} tokens", ""]
        width = max(len(p.name) for p in self.parts) + 2
        lines += [f"  {p.name:<{width}}{_gb(p.bytes):>12}  {p.how}" for p in self.parts]
        lines += [f"  {'total':<{width}}{_gb(self.total):>12}", "", *self._verdict()]
        facts = self.facts.lines() if self.facts else []
        if self.facts and self.facts.vision_parameters:
            vision = _gb(self.facts.vision_parameters * 2)
            facts.insert(0, f"the text model alone: its vision part takes {vision} more in bf16")
        return "\n".join([*lines, *([""] if facts else []), *facts])

    def _verdict(self) -> list[str]:
        device = self.device
        left = device.usable - self.total
        room = f"{_gb(left)} left" if left >= 0 else f"{_gb(-left)} too much"
        word = "fits" if self.fits else "does not fit"
        lines = [
            f"{word}: {device.name} has {_gb(device.bytes)}, "
            f"{_gb(RESERVED)} of it set aside; {room}"
        ]
        of, many = ("row", "rows of") if self.train else ("context", "rows at")
        limit = " (all that the model takes)" * (self.longest_context == self.config.max_positions)
        longest = f"{self.longest_context:,} tokens{limit}" if self.longest_context else "none"
        lines.append(f"longest {of} that fits: {longest}")
        most = f"{self.most_rows:,}" if self.most_rows else "none"
        lines.append(f"most {many} {self.context:,} tokens that fit: {most}")
        if not self.train:
            longest = f"{self.longest_prompt:,} tokens" if self.longest_prompt else "none"
            lines.append(
                f"longest prompt that fits while it is read: {longest}; one that fills the "
                f"context makes it {_gb(self.reading)}"
            )
        lines.append(f"weights alone need {self.devices_for_weights:,} of this device")
        return lines


def plan(
    model: str | Path,
    *,
    precision: str = "bf16",
    context: int | None = None,
    batch: int = 1,
    device: str | int = "here",
    train: bool = False,
    stage: str = "",
) -> Plan:
    """What `model` takes: a preset's name, a config.json, a model's directory, a run or its stage.

    `precision` is fp32, bf16, int8 or int4; training keeps fp32 weights and computes in fp32 or
    bf16. `context` tokens a row (8,192 if not given, or what the model takes), `batch` rows: those
    decoded together, or of a training micro-batch. `device` is a name (h100), bytes or "here".
    Raises UserError for an unknown name and for numbers that make no sense.

    >>> import puna
    >>> found = puna.plan("llama3-8b", context=8192, device="24GB")
    >>> found.fits, found.parts[0].bytes, found.longest_context
    (True, 16060522496, 52410)
    >>> puna.plan("llama3-8b", device="24GB", train=True).fits
    False
    """
    config, name = _shape(str(model), stage)
    given = _precision(precision, train)
    if context is None:
        context = min(_CONTEXT, config.max_positions)
    _within("context", context, config.max_positions, f"{name} takes")
    _within("batch", batch, _MOST_ROWS, "a plan has")
    place = find_device(str(device))

    def parts(rows: int, tokens: int) -> tuple[Part, ...]:
        make = _training_parts if train else _generation_parts
        return make(config, rows, tokens, given, place)

    def reading(tokens: int) -> int:
        return generation(config, batch, tokens, given, place.processor).reading

    def fits(rows: int, tokens: int) -> bool:
        return sum(p.bytes for p in parts(rows, tokens)) <= place.usable

    weights = weight_bytes(config, "fp32" if train else given)
    return Plan(
        model=name,
        config=config,
        precision=given,
        train=train,
        context=context,
        rows=batch,
        parts=parts(batch, context),
        naive_cache=0 if train else naive_cache_bytes(config, batch, context, WIDTH[given]),
        reading=0 if train else reading(context),
        device=place,
        longest_context=_most(lambda n: fits(batch, n), config.max_positions),
        longest_prompt=0
        if train
        else _most(lambda n: reading(n) <= place.usable, config.max_positions),
        most_rows=_most(lambda n: fits(n, context), _MOST_ROWS),
        devices_for_weights=-(-weights // max(1, place.usable)),
        facts=published(name) if model in preset_names() else None,
    )


def _generation_parts(
    config: ModelConfig, rows: int, tokens: int, precision: Precision, device: Device
) -> tuple[Part, ...]:
    found = generation(config, rows, tokens, precision, device.processor)
    width = WIDTH[precision]
    bounded = cache_bytes(config, rows, tokens, width)
    naive = naive_cache_bytes(config, rows, tokens, width)
    local = sum(config.is_local(i) for i in range(config.num_layers))
    cache = f"keys and values, {config.num_layers} layers"
    if naive > bounded:
        cache = (
            f"{local} local layers hold {config.attention_chunk:,} tokens, "
            f"{config.num_layers - local} hold all; if all did: {_gb(naive)}"
        )
    held = {
        "int8": "feed-forward int8, a scale a row; the rest bf16",
        "int4": "feed-forward int4, a scale for 128; the rest bf16",
    }.get(precision, precision)
    parts = [
        Part("weights", found.weights, held),
        Part("folded weights", found.folded, "small fp32 models decode with a second set"),
        Part("cache", found.cache, cache),
        Part("rotations", found.table, "a table of positions in use"),
        Part("one step", found.step, "a layer and its masks, or the sampler's probabilities"),
    ]
    return tuple(p for p in parts if p.bytes)


def _training_parts(
    config: ModelConfig, rows: int, tokens: int, precision: Precision, device: Device
) -> tuple[Part, ...]:
    width = WIDTH[precision]
    found = training(config, rows, tokens, width, fused_norm=not device.processor)
    parts = [
        Part("weights", found.weights, "fp32"),
        Part("gradients", found.gradients, "fp32"),
        Part("optimiser", found.optimizer, "AdamW: two moments, fp32"),
        Part("activations", found.saved, f"what the backward pass needs, {precision}"),
        Part("cast weights", found.casts, f"copies in {precision}, kept with them"),
        Part("logits", found.logits, "log-probabilities of the loss, fp32"),
        Part("passing", found.passing, "gradients on their way at the peak"),
    ]
    return tuple(p for p in parts if p.bytes)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to `limit` that fits, by bisection; 0 where not even 1 does."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _shape(model: str, stage: str) -> tuple[ModelConfig, str]:
    """The shape that a preset or a path means, and what to call it."""
    path = Path(model).expanduser()
    if model in preset_names():
        if stage:
            raise UserError(f"{model} is a preset, so it has no stage '{stage}'", "leave it out")
        return preset(model), model
    if not path.exists():
        if "/" in model or path.suffix:
            raise UserError(f"nothing at {model}", "name a preset, a config.json or a directory")
        raise UserError(f"no model '{model}'", nearest(model, preset_names()))
    if path.is_file():
        name = path.stem if path.name != "config.json" else path.resolve().parent.name
        return read_config(path, text_only=True), name
    directory, name = find_model(path, stage)
    return read_shape(directory, text_only=True), name


def _precision(given: str, train: bool) -> Precision:
    allowed = [p for p in WIDTH if not train or p in ("fp32", "bf16")]
    if given not in allowed:
        what = "training in" if train and given in WIDTH else "precision"
        hint = "give bf16 or fp32" if train else nearest(given, allowed)
        raise UserError(f"{what} {given!r}" + ("" if given in WIDTH else " is unknown"), hint)
    return given  # type: ignore[return-value]


def _within(name: str, value: object, most: int, who: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 1 <= value <= most:  # type: ignore[operator]
        raise UserError(f"{name} is {value!r:.40}", f"{who} 1 to {most:,}")


def _gb(count: int) -> str:
    """Bytes in decimal units, four digits."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 1000:,.2f} kB"
