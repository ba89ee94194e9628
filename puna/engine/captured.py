"""A decoding step on a GPU as one CUDA graph: one more token of every row, drawn as well.

`step = Captured(model, pages)`; `buffers = step.buffers(rows, entries)`, filled by whoever owns the
rows; `step.launch(buffers)` goes on without waiting. Graphs are captured once for every number of
rows, page-table width and split of attention, and again where the pages' memory has moved.
Shapes: B rows, L MoE layers, V vocabulary, n page-table entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.engine.pages import Pages
from puna.kernels.quantised import Quantised
from puna.models.config import ModelConfig
from puna.models.decoder import Block, Decoder
from puna.models.moe import MoE
from puna.models.rope import frequencies

if TYPE_CHECKING:
    from puna.kernels.launch import Launch, Matrix

AHEAD = 64  # uniforms of a row on the device
FULL = 4 * 132  # programs that fill the GPU with attention
LONGEST = 64  # parts of attention at most


def suits(model: Decoder, page: int) -> bool:
    """Whether the kernels compute this model: bf16 on a GPU, sizes that fill their blocks."""
    right = model.device.type == "cuda" and model.dtype == torch.bfloat16
    return right and fills(model.config, page)


def check_weights(model: Decoder, graphs: bool) -> None:
    """Raises UserError where weights shall be quantised and nothing here reads such ones."""
    kind = model.decode_weights
    if kind != "auto" and not graphs:
        what = (
            f"machine.weights is '{kind}', and no kernel that reads such weights decodes this model"
        )
        raise UserError(what, "use auto")
    if kind == "fp8" and torch.cuda.get_device_capability(model.device) < (8, 9):
        raise UserError(
            "machine.weights is 'fp8', which this GPU does not know", "use int4 or auto"
        )


def fills(config: ModelConfig, page: int) -> bool:
    """Whether a model's sizes, and the tokens of a page, fill the kernels' blocks.

    Tokens are read 16 at a time at least: a chunk of 1,000 has pages of 250, which are not.
    """
    plain = not (config.qkv_bias or config.head_norms)
    sizes = (config.hidden_size, config.intermediate_size, config.expert_size or 64)
    even = all(size % 64 == 0 for size in sizes) and config.head_dim in (16, 32, 64, 128)
    return plain and even and page % 16 == 0 and config.hidden_size <= 8192


@dataclass
class _Layer:
    """The weights of a layer as the kernels read them."""

    gain: Tensor
    qkv: Tensor
    out: Tensor
    second_gain: Tensor
    shared_gate_up: Matrix
    shared_down: Matrix
    moe: MoE | None
    router: Tensor | None
    gate_up: Matrix | None
    down: Matrix | None
    nope: bool
    local: bool
    index: int


class Buffers:
    """What one batch reads and writes at fixed addresses; `out` [2 + L, B] is a step's result.

    Of `out` the first line are tokens, the second log-probabilities as bits, the others experts.
    """

    def __init__(
        self, rows: int, entries: int, kinds: list[bool], layers: int, device: torch.device
    ) -> None:
        self.rows, self.entries = rows, entries

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.ids, self.positions, self.live, self.greedy = (zeros(rows) for _ in range(4))
        self.heat = zeros(rows, dtype=torch.float32) + 1
        self.tables = {kind: zeros(rows, entries) for kind in kinds}
        self.uniforms = zeros(AHEAD, rows, dtype=torch.float32)
        self.tick = zeros(1) - 1
        self.out = zeros(2 + layers, rows)
        self.tokens, self.logprobs = self.out[0], self.out[1].view(torch.float32)


class Captured:
    """The step of one model over its pages; `refresh` after weights changed in place.

    Feed-forward weights are held quantised where `model.decode_weights` says so, the others as they
    are.
    """

    def __init__(self, model: Decoder, pages: Pages) -> None:
        from puna.kernels.launch import Shape

        config = model.config
        self.model, self.pages, self.config = model, pages, config
        self.copies: list[tuple[Callable[[], Tensor], Callable[[Tensor], object]]] = []
        self.layers = [self._layer(i, cast(Block, b)) for i, b in enumerate(model.layers)]
        self.embedding = self._own(lambda: model.embed)
        head = model.head
        self.head = self.embedding if head is None else self._own(head.effective)
        self.gain = self._own(lambda: model.norm.weight)
        self.frequencies = frequencies(config).to(model.device)
        self.shape = Shape(
            config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim, pages.size,
            config.num_experts, config.vocab_size, 1 if config.family == "llama4" else 2,
            config.qk_norm, config.norm_eps, config.attention_chunk or 0,
            float(config.floor_scale), config.attn_scale,
        )  # fmt: skip
        # From compute capability 9.0 on a kernel is set up while the one before still runs.
        cuda = model.device.type == "cuda"
        self.overlap = cuda and torch.cuda.get_device_capability(model.device) >= (9, 0)
        self._graphs: dict[tuple[int, int, int], torch.cuda.CUDAGraph] = {}
        self._stamp: list[int] = []
        self._buffers: dict[tuple[int, int], Buffers] = {}
        self._scratch: dict[int, Scratch] = {}

    def refresh(self) -> None:
        """Copy again what is not read where the model holds it."""
        with torch.no_grad():
            for source, write in self.copies:
                write(source())

    def buffers(self, rows: int, entries: int) -> Buffers:
        """Those for at least so many rows and page-table entries, to be filled anew."""
        wide = 1 << max(2, (entries - 1).bit_length())
        key = bucket(rows), wide
        if key not in self._buffers:
            kinds = list(self.pages.pools)
            self._buffers[key] = Buffers(*key, kinds, self.config.num_moe_layers, self.model.device)
        return self._buffers[key]

    def launch(self, buffers: Buffers, longest: int) -> None:
        """One step of all rows; nobody holds more than `longest` tokens. Does not wait."""
        rows, keys = buffers.rows, self.config.num_kv_heads
        splits = 1
        while splits < LONGEST and rows * keys * splits * 2 <= FULL and longest > 128 * splits:
            splits *= 2
        if self.model.device.type == "cpu":  # by Triton's interpreter, which has no graphs
            self.run(self._launch(buffers, splits), buffers, self._scratch_of(rows))
            return
        counts = [pool.count for pool in self.pages.pools.values()]
        if counts != self._stamp:  # the pages lie elsewhere
            torch.cuda.synchronize()
            self._graphs.clear()
            self._stamp = counts
        key = rows, buffers.entries, splits
        if key not in self._graphs:
            self._graphs[key] = self._capture(buffers, splits)
        self._graphs[key].replay()

    def _launch(self, buffers: Buffers, splits: int) -> Launch:
        from puna.kernels.launch import Launch

        return Launch(self.shape, buffers.rows, splits, self.overlap)

    def _scratch_of(self, rows: int) -> Scratch:
        if rows not in self._scratch:
            self._scratch[rows] = Scratch(self, rows)
        return self._scratch[rows]

    def _capture(self, buffers: Buffers, splits: int) -> torch.cuda.CUDAGraph:
        launch, scratch = self._launch(buffers, splits), self._scratch_of(buffers.rows)
        # What a trial run would change is put back: compiling must not move the rows on.
        kept = [t.clone() for t in (buffers.ids, buffers.positions, buffers.tick, buffers.live)]
        buffers.live.zero_()
        side = torch.cuda.Stream(self.model.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.model.device))
        with torch.cuda.stream(side):
            buffers.tick.zero_()
            self.run(launch, buffers, scratch)
        torch.cuda.current_stream(self.model.device).wait_stream(side)
        torch.cuda.synchronize(self.model.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.run(launch, buffers, scratch)
        own = (buffers.ids, buffers.positions, buffers.tick, buffers.live)
        for tensor, was in zip(own, kept, strict=True):
            tensor.copy_(was)
        return graph

    def run(self, launch: Launch, to: Buffers, scratch: Scratch) -> None:
        """Launch the kernels of a step (see `puna.kernels.launch.Launch`)."""
        x, normed, own, common = scratch.x, scratch.normed, scratch.own, scratch.common
        config, added = self.config, tuple[Tensor, ...]()
        launch.embed(to.ids, self.embedding, x, to.tick)
        for layer in self.layers:
            kind, place = self.pages.layers[layer.index]
            pool = self.pages.pools[kind]
            temper = layer.nope and config.temperature_tuning
            launch.heads(x, added, layer.gain, normed, layer.qkv, scratch.heads)
            launch.attend(
                scratch.heads, pool.keys[place], pool.values[place], to.tables[kind], to.positions,
                to.live, self.frequencies, scratch.mixed, scratch.partial, scratch.weights,
                layer.local, layer.nope, temper,
            )  # fmt: skip
            parts = scratch.partial, scratch.weights
            added = launch.out(scratch.mixed, *parts, layer.out, x, own)
            choice, route = None, tuple[Tensor, ...]()
            if layer.moe is not None and layer.router is not None:
                choice = to.out[2 + layer.moe.index]
                route = (layer.router, layer.moe.expert_bias, choice, scratch.score)
            launch.gate_up(
                x, added, layer.second_gain, normed, route, layer.gate_up, layer.shared_gate_up,
                scratch.act,
            )  # fmt: skip
            two = layer.down, layer.shared_down
            added = launch.down(scratch.act, choice, *two, x, own, common)
        launch.normalise(x, added, self.gain, normed)
        torch.mm(normed, self.head.t(), out=scratch.logits)
        launch.draw(scratch, to)

    def _layer(self, index: int, block: Block) -> _Layer:
        attention, feed_forward = block.attention, block.feed_forward
        moe = feed_forward if isinstance(feed_forward, MoE) else None
        shared = feed_forward.shared if isinstance(feed_forward, MoE) else feed_forward
        router = gate_up = down = None
        if moe is not None:
            experts = moe.experts
            router = self._own(moe.router.effective)
            gate_up = self._held(lambda: experts.effective()[0], turned=True)
            down = self._held(lambda: experts.effective()[1], turned=True)
        return _Layer(
            self._own(lambda: block.attention_norm.weight),
            self._own(attention.qkv.effective),
            self._own(attention.out.effective),
            self._own(lambda: block.feed_forward_norm.weight),
            self._held(shared.gate_up.effective),
            self._held(shared.down.effective),
            moe, router, gate_up, down, attention.nope, attention.local, index,
        )  # fmt: skip

    def _own(self, source: Callable[[], Tensor]) -> Tensor:
        """A weight in the activations' dtype: itself where it is in it, else a copy to refresh."""
        with torch.no_grad():
            found = source()
        if isinstance(found, torch.nn.Parameter) and found.dtype == self.model.dtype:
            return found.detach()
        copy = found.detach().to(self.model.dtype, copy=True).contiguous()
        self.copies.append((source, copy.copy_))
        return copy

    def _held(self, source: Callable[[], Tensor], turned: bool = False) -> Matrix:
        """A feed-forward weight, quantised or not; `turned`: it lies [..., in, out]."""
        kind = self.model.decode_weights
        if kind == "auto":
            return self._own(source)

        def rows() -> Tensor:
            found = source()
            return found.transpose(-1, -2) if turned else found

        with torch.no_grad():
            found = rows()
            held = Quantised(tuple(found.shape), kind, found.device)
            held.fill(found)
        self.copies.append((rows, held.fill))
        return held


class Scratch:
    """What lies between the kernels of a step, for a number of rows."""

    def __init__(self, step: Captured, rows: int) -> None:
        from puna.kernels.launch import VOCAB

        shape, like = step.shape, step.embedding
        made, wide = like.new_empty, torch.float32
        self.x, self.normed, self.own, self.common = (made(rows, shape.width) for _ in range(4))
        self.heads = made(rows, (shape.heads + 2 * shape.keys) * shape.head)
        self.mixed = made(rows, shape.heads * shape.head)
        splits = max(1, min(LONGEST, FULL // max(1, rows * shape.keys)))
        self.partial = made(rows * shape.heads * splits * shape.head, dtype=wide)
        self.weights = made(rows * shape.heads * splits, dtype=wide)
        self.score = made(rows, dtype=wide)
        self.act = made(rows * max(2 * step.config.expert_size, step.config.intermediate_size))
        self.logits = made(rows, shape.vocab)
        blocks = -(-shape.vocab // VOCAB)
        self.tops, self.sums = made(rows, blocks, dtype=wide), made(rows, blocks, dtype=wide)
        self.best = made(rows, blocks, dtype=torch.int32)


def bucket(rows: int) -> int:
    """For how many rows a graph is captured that serves `rows`: few sizes, little waste."""
    for size in (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256):
        if rows <= size:
            return size
    return -(-rows // 128) * 128
