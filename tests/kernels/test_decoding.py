"""The kernels of a decoding step beside the decoder itself, run by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")

from puna.engine.cache import KVCache
from puna.engine.captured import Buffers, Captured, Scratch
from puna.engine.pages import Held, Pages
from puna.engine.policy import SamplingParams
from puna.engine.sampling import Drawing
from puna.kernels.launch import JOINED, Launch
from puna.kernels.quantised import Kind, Quantised
from puna.models.config import ModelConfig, RopeScaling
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.presets import build

LLAMA4 = ModelConfig(
    "llama4", 200, 64, 4, 8, 2, 16, 128, expert_size=64, num_experts=4, moe_every=2,
    attention_chunk=32, nope_every=2, qk_norm=True, temperature_tuning=True, floor_scale=8,
    max_positions=256,
)  # fmt: skip
LLAMA3 = ModelConfig(
    "llama3", 3000, 192, 2, 6, 2, 32, 256, max_positions=256,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64),
)  # fmt: skip
NAN = float("nan")
TOLERANCE = 2e-6


class Table:
    """Rows at different places of a cache, and the step over them with every buffer poisoned."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        bias: tuple[float, ...] = (),
        model: Decoder | None = None,
    ) -> None:
        self.model, self.rows = model or build(config, 0), rows
        for name, value in self.model.named_buffers():
            if bias and name.endswith("expert_bias"):
                value.copy_(torch.tensor(bias))
        random = torch.Generator().manual_seed(0)
        self.pages = Pages(config, torch.float32, "cpu", 32)
        self.lengths = [3 + (7 * i) % 90 for i in range(rows)]
        self.ids = torch.randint(0, config.vocab_size, (rows, 100), generator=random)
        self.helds = []
        for i, length in enumerate(self.lengths):
            held = Held()
            self.pages.extend(held, length)
            self.model(self.ids[i : i + 1, :length], cache=KVCache(self.pages, [held]))
            self.pages.extend(held, length + 1)
            self.helds.append(held)
        self.step = Captured(self.model, self.pages)
        self.buffers = self.filled()

    def filled(self) -> Buffers:
        buffers = self.step.buffers(self.rows, 5)
        buffers.ids[: self.rows] = self.ids[range(self.rows), self.lengths]
        buffers.positions[: self.rows] = torch.tensor(self.lengths)
        buffers.live[: self.rows] = 1
        for kind, table in buffers.tables.items():
            table.fill_(-1)
            for i, held in enumerate(self.helds):
                for j, page in enumerate(held.pages[kind]):
                    table[i, j] = -1 if page is None else page.id
        return buffers

    def run(self, splits: int) -> Scratch:
        scratch = Scratch(self.step, self.buffers.rows)
        for value in vars(scratch).values():
            value.fill_(NAN if value.is_floating_point() else 99)
        launch = Launch(self.step.shape, self.buffers.rows, splits, overlap=False)
        self.step.run(launch, self.buffers, scratch)
        return scratch

    def expected(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [B, V] and experts [B, L] behind the last tokens, by the decoder alone."""
        logits, taken = [], []
        for i, length in enumerate(self.lengths):
            routes = Routes() if self.model.config.num_experts else None
            hidden = self.model(self.ids[i : i + 1, : length + 1], routes=routes)
            logits.append(self.model.logits(hidden[0, -1]))
            taken.append(None if routes is None else routes.recorded[0, -1])
        return torch.stack(logits), None if taken[0] is None else torch.stack(taken)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("config", [LLAMA4, LLAMA3], ids=["llama4", "llama3"])
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_a_step_equals_the_decoder(config: ModelConfig, rows: int) -> None:
    table = Table(config, rows)
    want, experts = table.expected()
    for splits in (1, 4) if rows > 4 else (1, 4, 2 * JOINED):
        table.filled()
        found = table.run(splits).logits[:rows]
        assert (found - want).abs().max() < TOLERANCE
        if experts is not None:
            assert torch.equal(table.buffers.out[2:, :rows].t(), experts.int())
        assert table.buffers.positions[:rows].tolist() == [n + 1 for n in table.lengths]


@pytest.mark.parametrize("off", ["norm of queries", "temperature", "chunks", "no positions"])
def test_every_feature_matters(off: str) -> None:
    table = Table(LLAMA4, 12)
    want, _ = table.expected()
    shape = table.step.shape
    for layer in table.step.layers:
        layer.local = layer.local and off != "chunks"
        layer.nope = layer.nope and off != "no positions"
    if off == "norm of queries":
        shape = replace(shape, norm_queries=False)
    if off == "temperature":
        shape = replace(shape, attn_scale=0.0)
    table.step.shape = shape
    assert not (table.run(1).logits[:12] - want).abs().max() < 100 * TOLERANCE


def test_the_new_key_lies_in_its_page() -> None:
    table = Table(LLAMA4, 3)
    table.run(1)
    cache = KVCache(table.pages, table.helds)
    for held, length in zip(table.helds, table.lengths, strict=True):
        held.length = length + 1
    after = torch.tensor([n + 1 for n in table.lengths])
    ids = table.ids[range(3), after]
    hidden = table.model(ids[:, None], after[:, None], cache=cache)
    for i, length in enumerate(table.lengths):
        want = table.model(table.ids[i : i + 1, : length + 2])[0, -1]
        assert (hidden[i, 0] - want).abs().max() < TOLERANCE


def test_rows_that_ended_touch_no_page() -> None:
    table = Table(LLAMA4, 4)
    before = [k.clone() for pool in table.pages.pools.values() for k in pool.keys]
    table.buffers.live[:] = 0
    table.buffers.positions[:4] += 200  # beyond every page
    for rows in table.buffers.tables.values():
        rows.fill_(-1)
    table.run(1)
    after = [k for pool in table.pages.pools.values() for k in pool.keys]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert table.buffers.positions[:4].tolist() == [n + 200 for n in table.lengths]


@pytest.mark.parametrize("bias", [(100.0, 0, 0, 0), (0, 0, 0, 100.0), (0, 50.0, 50.0, 0)])
def test_uneven_experts(bias: tuple[float, ...]) -> None:
    table = Table(LLAMA4, 20, bias)
    want, experts = table.expected()
    found = table.run(1).logits[:20]
    assert experts is not None
    assert experts.unique().numel() == sum(b > 0 for b in bias)
    assert (found - want).abs().max() < TOLERANCE


def put_on_the_grid(model: Decoder, kind: Kind) -> None:
    """Feed-forward weights become what their quantised ones stand for."""
    for name, weight in model.named_parameters():
        if "feed_forward." in name and "router" not in name:
            turned = weight.mT if "experts" in name else weight
            held = Quantised(tuple(turned.shape), kind, weight.device)
            held.fill(turned)
            weight.copy_(held.plain().mT if "experts" in name else held.plain())


@pytest.mark.parametrize("kind", ["fp8", "int4"])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_quantised_step_equals_a_decoder_of_such_weights(kind: Kind, rows: int) -> None:
    config = LLAMA4
    model = build(config, 0)
    model.decode_weights = kind
    before = Table(config, rows, model=model)
    want, _ = before.expected()
    assert (before.run(1).logits[:rows] - want).abs().max() > 100 * TOLERANCE
    put_on_the_grid(model, kind)
    table = Table(config, rows, model=model)
    want, _ = table.expected()
    assert (table.run(1).logits[:rows] - want).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_new_weights_are_quantised_where_the_old_ones_lie(kind: Kind) -> None:
    model = build(LLAMA4, 0)
    model.decode_weights = kind
    table = Table(LLAMA4, 2, model=model)
    layers = [layer for layer in table.step.layers if layer.moe is not None]
    held = [m for x in layers for m in (x.gate_up, x.down, x.shared_gate_up, x.shared_down)]
    for weight, other in zip(model.parameters(), build(LLAMA4, 1).parameters(), strict=True):
        weight.copy_(other)
    table.step.refresh()
    moes = [layer.moe for layer in layers if layer.moe is not None]
    now = [
        w
        for moe in moes
        for w in (
            moe.experts.gate_up.mT, moe.experts.down.mT,
            moe.shared.gate_up.weight, moe.shared.down.weight,
        )
    ]  # fmt: skip
    assert len(held) == len(now) == 8
    for kept, weight in zip(held, now, strict=True):
        assert isinstance(kept, Quantised)
        fresh = Quantised(kept.shape, kind, weight.device)
        fresh.fill(weight)
        assert torch.equal(kept.plain(), fresh.plain())


@pytest.mark.parametrize("heat", [0.0, 0.7, 1.0])
def test_draws_are_those_of_the_sampler(heat: float) -> None:
    table = Table(LLAMA3, 20)
    to, rows = table.buffers, 20
    to.heat[:] = heat or 1.0
    to.greedy[:] = heat == 0
    to.uniforms[:] = torch.rand(to.uniforms.shape, generator=torch.Generator().manual_seed(1))
    scratch = table.run(1)
    drawing = Drawing([SamplingParams(1, heat)] * rows, torch.device("cpu"))
    token, logprob = drawing(scratch.logits[:rows], to.uniforms[0, :rows])
    assert torch.equal(to.tokens[:rows].long(), token)
    assert (to.logprobs[:rows] - logprob).abs().max() < 1e-5
    assert torch.equal(to.ids[:rows], to.tokens[:rows])
    assert len(token.unique()) > (1 if heat else 0)


def test_draws_follow_the_distribution() -> None:
    table = Table(LLAMA4, 1)
    table.buffers.uniforms[:] = torch.rand(64, 1, generator=torch.Generator().manual_seed(2))
    scratch = table.run(1)
    launch = Launch(table.step.shape, 1, 1, overlap=False)
    logits = torch.full((200,), -20.0)
    logits[[3, 150]] = torch.tensor([0.0, 1.0])
    scratch.logits[:] = logits
    drawn = []
    for step in range(64):
        table.buffers.tick.fill_(step)
        launch.draw(scratch, table.buffers)
        drawn.append(int(table.buffers.tokens[0]))
    want = torch.where(table.buffers.uniforms[:, 0] < logits.softmax(0)[3], 3, 150)
    assert drawn == want.tolist()


def test_a_draw_at_a_block_s_end_is_a_likely_token() -> None:
    """The sum over a block and the sums up to its tokens are rounded differently."""
    rows, vocab = 64, 3000
    table = Table(LLAMA3, rows)
    to, scratch = table.buffers, Scratch(table.step, table.buffers.rows)
    launch = Launch(table.step.shape, to.rows, 1, overlap=False)
    to.heat[:], to.greedy[:] = 1.0, 0
    beyond = 0
    for seed in range(12):
        random = torch.Generator().manual_seed(seed)
        logits = torch.randn(vocab, generator=random)
        logits[1900:2048], logits[2500:] = -40.0, -40.0
        scratch.logits[:] = logits
        end = logits.double().softmax(0)[:2048].sum().float() if seed % 2 else torch.tensor(1.0)
        near = end.view(1).repeat(rows)
        for i in range(rows):
            near[i:] = torch.nextafter(near[i:], torch.tensor(0.0))
        if seed % 2:
            near += 8 * (end - near[7])
        to.tick.fill_(0)
        to.uniforms[0, :rows] = near.clamp(max=1 - 2**-24)
        launch.draw(scratch, to)
        beyond += int((logits[to.tokens[:rows].long()] < -30).sum())
    assert beyond == 0
