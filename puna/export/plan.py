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
from puna.engine.local import MEMORY, SHARE
from puna.export.device import RESERVED, Device, find_device
from puna.export.lora import lora_training
from puna.export.memory import (
    WIDTH,
    Precision,
    cache_bytes,
    generation,
    naive_cache_bytes,
    training,
    weight_bytes,
)
from puna.export.published import Published, published, recognise
from puna.models.config import ModelConfig
from puna.models.directory import read_shape
from puna.models.hf import read_config
from puna.models.presets import preset, preset_names

_CONTEXT = 8192  # what is planned where nobody says
_MOST_ROWS = 1 << 20
_MOST_RANK = 1 << 16


@dataclass(frozen=True)
class Part:
    """One line of the table."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Plan:
    """What a model takes and what would fit; bytes, tokens, rows. `how` of a part says its formula.

    `reading` is the peak while the engine reads a prompt that fills the context, in pieces, and
    `longest_prompt` what fits so; both are 0 in training. `longest_context` and `most_rows` are 0
    where nothing fits. `naive_cache` is the cache's size if local layers kept every token,
    `cache_room` what the engine would give it, 0 in training. `lora` is the rank of adapters that
    learn instead of all weights, `tiles` are those of the rows' pictures. `facts` are about the
    model named `like`, whose shape it is.
    """

    model: str
    config: ModelConfig
    precision: Precision
    train: bool
    context: int
    rows: int
    parts: tuple[Part, ...]
    naive_cache: int
    cache_room: int
    reading: int
    device: Device
    longest_context: int
    longest_prompt: int
    most_rows: int
    devices_for_weights: int
    lora: int
    tiles: int
    like: str
    facts: Published | None

    @property
    def total(self) -> int:
        """Bytes at the peak, the sum of the parts."""
        return sum(p.bytes for p in self.parts)

    @property
    def fits(self) -> bool:
        """Whether the device has room for `total` beside what its own programs need, and the
        engine for the cache.
        """
        return _fits(self.parts, self.device, self.cache_room)

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
        if self.lora:
            task = f"training adapters of rank {self.lora} on micro-batches of"
        rows = f"{self.rows:,} row{'s' * (self.rows > 1)}"
        shown = f", {self.tiles:,} tiles of pictures in them" if self.tiles else ""
        lines = [f"{self.model}: {counts}", f"{task} {rows} of {self.context:,} tokens{shown}", ""]
        width = max(len(p.name) for p in self.parts) + 2
        lines += [f"  {p.name:<{width}}{_gb(p.bytes):>12}  {p.how}" for p in self.parts]
        lines += [f"  {'total':<{width}}{_gb(self.total):>12}", "", *self._verdict()]
        return "\n".join([*lines, *self._published()])

    def _published(self) -> list[str]:
        if self.facts is None:
            return []
        lines = [""]
        if self.model != self.like:
            lines.append(f"the shape is that of {self.like}, of which is published:")
        if self.facts.vision_parameters and self.config.vision is None:
            vision = _gb(self.facts.vision_parameters * 2)
            lines.append(f"the text model alone: its vision part takes {vision} more in bf16")
        return [*lines, *self.facts.lines(self.config.max_positions)]

    def _verdict(self) -> list[str]:
        device = self.device
        left = device.usable - self.total
        room = f"{_gb(left)} left" if left >= 0 else f"{_gb(-left)} too much"
        word = "fits" if self.fits else "does not fit"
        lines = [
            f"{word}: {device.name} has {_gb(device.bytes)}, "
            f"{_gb(RESERVED)} of it set aside; {room}"
        ]
        if not self.train:
            lines.append(f"the engine gives the cache at most {_gb(self.cache_room)}")
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
    lora: int = 0,
    tiles: int = 0,
    stage: str = "",
) -> Plan:
    """What `model` takes: a preset's name, a config.json, a model's directory, a run or its stage.

    `precision` is fp32, bf16, int8 or int4; training keeps fp32 weights and computes in fp32 or
    bf16. `context` tokens a row (8,192 if not given, or what the model takes), `batch` rows: those
    decoded together, or of a training micro-batch. `device` is a name (h100), bytes or "here".
    `lora` plans the training of adapters of that rank on frozen weights in `precision`; `tiles` of
    pictures stand in the rows, a picture of 1024 x 768 pixels having 13.
    Raises UserError for an unknown name and for numbers that make no sense.

    >>> import puna
    >>> found = puna.plan("llama3-8b", context=8192, device="24GB")
    >>> found.fits, found.parts[0].bytes, found.longest_context
    (True, 16060522496, 31744)
    >>> puna.plan("llama3-8b", device="24GB", train=True).fits
    False
    >>> puna.plan("llama3-8b", device="24GB", context=512, lora=16).fits
    True
    """
    config, name = _shape(str(model), stage)
    if lora != 0:
        _within("lora", lora, _MOST_RANK, "an adapter's rank is")
        train = True
    given = _precision(precision, train)
    if context is None:
        context = min(_CONTEXT, config.max_positions)
    _within("context", context, config.max_positions, f"{name} takes")
    _within("batch", batch, _MOST_ROWS, "a plan has")
    if tiles != 0:
        _tiles(config, tiles, batch * context, name)
    place = find_device(str(device))

    def parts(rows: int, tokens: int) -> tuple[Part, ...]:
        if train:
            return _training_parts(config, rows, tokens, given, place, lora, tiles)
        return _generation_parts(config, rows, tokens, given, place, tiles)

    weights = weight_bytes(config, "fp32" if train and not lora else given)
    cache_room = 0 if train else _cache_room(place, weights)

    def reading(tokens: int) -> int:
        return generation(config, batch, tokens, given, place.processor, tiles).reading

    def fits(rows: int, tokens: int) -> bool:
        return _fits(parts(rows, tokens), place, cache_room)

    def readable(tokens: int) -> bool:
        cache = cache_bytes(config, batch, tokens, WIDTH[given])
        return reading(tokens) <= place.usable and cache <= cache_room

    like = name if model in preset_names() else recognise(config)
    return Plan(
        model=name,
        config=config,
        precision=given,
        train=train,
        context=context,
        rows=batch,
        parts=parts(batch, context),
        naive_cache=0 if train else naive_cache_bytes(config, batch, context, WIDTH[given]),
        cache_room=cache_room,
        reading=0 if train else reading(context),
        device=place,
        longest_context=_most(lambda n: fits(batch, n), config.max_positions),
        longest_prompt=0 if train else _most(readable, config.max_positions),
        most_rows=_most(lambda n: fits(n, context), _MOST_ROWS),
        devices_for_weights=-(-weights // max(1, place.usable)),
        lora=lora,
        tiles=tiles,
        like=like,
        facts=published(like),
    )


def _generation_parts(
    config: ModelConfig, rows: int, tokens: int, precision: Precision, device: Device, tiles: int
) -> tuple[Part, ...]:
    found = generation(config, rows, tokens, precision, device.processor, tiles)
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
    eyes = config.vision_parameters * width
    parts = [
        Part("weights", found.weights - eyes, held),
        Part(
            "vision encoder",
            eyes,
            f"its weights and projection, {'fp32' if width == 4 else 'bf16'}",
        ),
        Part("folded weights", found.folded, "small fp32 models decode with a second set"),
        Part("cache", found.cache, cache),
        Part("rotations", found.table, "a table of positions in use"),
        Part("pictures", found.tiles, "pixels of the tiles, bf16, kept for the next time"),
        Part("one step", found.step, "a layer and its scores, or the sampler's probabilities"),
    ]
    return tuple(p for p in parts if p.bytes)


def _training_parts(
    config: ModelConfig,
    rows: int,
    tokens: int,
    precision: Precision,
    device: Device,
    lora: int,
    tiles: int,
) -> tuple[Part, ...]:
    width, on_gpu = WIDTH[precision], not device.processor
    if lora:
        found = lora_training(config, rows, tokens, width, lora, on_gpu, tiles)
        kept, learned = f"frozen, {precision}", "of the adapters, fp32"
        eyes = config.vision_parameters * width
    else:
        found = training(config, rows, tokens, width, on_gpu, tiles)
        kept, eyes, learned = "fp32", config.vision_parameters * 4, "fp32"
    blind = "" if tiles or lora or not eyes else "; nothing else without pictures"
    parts = [
        Part("weights", found.weights - eyes, kept),
        Part("vision encoder", eyes, f"its weights and projection, {kept}{blind}"),
        Part("adapters", found.adapters, f"rank {lora}, every projection, fp32"),
        Part("gradients", found.gradients, learned),
        Part("optimiser", found.optimizer, "AdamW: two moments, fp32"),
        Part("activations", found.saved, f"what the backward pass needs, {precision}"),
        Part("pictures", found.seen, "pixels, features, and what the encoder's backward needs"),
        Part("cast weights", found.casts, f"copies in {precision}, kept with them"),
        Part("logits", found.logits, "log-probabilities of the loss, fp32"),
        Part("passing", found.passing, "gradients on their way at the peak"),
    ]
    return tuple(p for p in parts if p.bytes)


def _cache_room(device: Device, weights: int) -> int:
    """As `puna.engine.local` takes it for pages, once the weights are there."""
    return MEMORY if device.processor else int(SHARE * max(0, device.usable - weights))


def _fits(parts: tuple[Part, ...], device: Device, cache_room: int) -> bool:
    cache = sum(p.bytes for p in parts if p.name == "cache")
    return cache <= cache_room and sum(p.bytes for p in parts) <= device.usable


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
        known = published(model)
        if known is not None and known.unreleased:
            raise UserError(f"{model}: {known.unreleased}", "plan llama4-scout or llama4-maverick")
        raise UserError(f"no model '{model}'", nearest(model, preset_names()))
    if path.is_file():
        name = path.stem if path.name != "config.json" else path.resolve().parent.name
        return read_config(path), name
    directory, name = find_model(path, stage)
    return read_shape(directory), name


def _precision(given: str, train: bool) -> Precision:
    allowed = [p for p in WIDTH if not train or p in ("fp32", "bf16")]
    if given not in allowed:
        what = "training in" if train and given in WIDTH else "precision"
        hint = "give bf16 or fp32" if train else nearest(given, allowed)
        raise UserError(f"{what} {given!r}" + ("" if given in WIDTH else " is unknown"), hint)
    return given  # type: ignore[return-value]


def _tiles(config: ModelConfig, tiles: int, places: int, name: str) -> None:
    """Raises UserError where so many tiles cannot stand in rows of `places` tokens."""
    if config.vision is None:
        fix = "plan the directory of a model with a vision_config"
        raise UserError(f"tiles is {tiles!r:.40}, and {name} reads no images", fix)
    each = config.vision.tiling.tokens
    most = places // each
    _within("tiles", tiles, most, f"rows of {places:,} tokens, {each} a tile, hold")


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
