"""The folded step equals the decoder's own, feature by feature."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from puna.engine.cache import KVCache
from puna.engine.step import Step, suits
from puna.models.config import ModelConfig, RopeScaling
from puna.models.decoder import Decoder
from puna.models.moe import Routes
from puna.models.presets import build, preset

NANO = preset("nano")
LLAMA3 = ModelConfig(
    "llama3", vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=48, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16),
)  # fmt: skip
CONFIGS = {
    "llama3": LLAMA3,
    "tied": replace(LLAMA3, tie_embeddings=True),
    "nano": NANO,
    "no qk norm": replace(NANO, qk_norm=False),
    "short chunk, temperature": replace(NANO, attention_chunk=8, floor_scale=4),
    "rotary everywhere": replace(NANO, nope_every=0),
    "dense": replace(NANO, num_experts=0),
}


@pytest.mark.parametrize("packed", [0, 1 << 16])
@pytest.mark.parametrize("name", CONFIGS)
def test_steps_agree_with_the_plain_forward_pass(
    name: str, packed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.engine.step.PACKED", packed)
    config = CONFIGS[name]
    model = build(config, 0).eval()
    with torch.no_grad():  # norms of ones would hide a norm that was left out
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    ids = torch.randint(0, 64, (5, 30), generator=torch.Generator().manual_seed(0))
    places = torch.arange(12).expand(5, 12)
    caches = [KVCache.fresh(config, 5, 30) for _ in range(2)]
    with torch.inference_mode():
        for cache in caches:
            model(ids[:, :12], places, cache=cache)
        step = Step(model)
        for t in range(12, 30):
            at = torch.full((5,), t)
            routes = [Routes(), Routes()]
            plain = model(ids[:, t : t + 1], at[:, None], cache=caches[0], routes=routes[0])
            logits = model.logits(plain[:, -1])
            folded = step(ids[:, t], at, caches[1], routes[1])
            torch.testing.assert_close(folded, logits, atol=3e-6, rtol=1e-5)
            if config.num_experts:
                assert torch.equal(routes[0].recorded, routes[1].recorded)
    assert logits.abs().max() > 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_steps_are_as_near_to_fp32_as_the_plain_pass(name: str) -> None:
    """Along one text, with the experts that fp32 takes."""
    config = CONFIGS[name]
    exact = build(config, 0).eval()
    with torch.no_grad():
        for parameter in exact.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            parameter.copy_(parameter.bfloat16())
    model = copy.deepcopy(exact)
    model.compute_dtype = torch.bfloat16
    ids = torch.randint(0, 64, (5, 30), generator=torch.Generator().manual_seed(0))
    gaps: dict[str, list[float]] = {"plain": [], "folded": []}
    with torch.inference_mode():
        routes = Routes()
        expected = exact.logits(exact(ids, routes=routes))
        taken = routes.recorded if config.num_experts else None
        caches = {name: KVCache.fresh(config, 5, 30, torch.bfloat16) for name in gaps}
        step = Step(model)
        for t in range(30):
            at = torch.full((5,), t)
            replay = None if taken is None else taken[:, t : t + 1]
            plain = model(
                ids[:, t : t + 1], at[:, None], cache=caches["plain"], routes=Routes(replay)
            )
            folded = step(ids[:, t], at, caches["folded"], Routes(replay))
            assert folded.dtype == torch.float32
            for name, logits in (("plain", model.logits(plain[:, -1])), ("folded", folded)):
                gaps[name].append((logits - expected[:, t]).abs().mean().item())
    assert 0 < sum(gaps["folded"]) < 1.1 * sum(gaps["plain"])
    assert expected.abs().mean() > 30 * max(gaps["folded"])


def test_the_engine_decodes_small_models_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from puna.engine import local
    from puna.engine.policy import SamplingParams
    from puna.text.tokenizer import Tokenizer

    made: list[Step] = []

    class Counted(Step):
        def __init__(self, model: Decoder) -> None:
            super().__init__(model)
            made.append(self)

    monkeypatch.setattr(local, "Step", Counted)
    tokenizer = Tokenizer.train(["a b c"], 300)
    model = build(replace(NANO, vocab_size=tokenizer.vocab_size), 0).eval()
    engine = local.Engine(model, tokenizer, 0)
    engine.ignore_stops()
    asked = [local.Request((5, 6), SamplingParams(n, 1.0), ("x", n)) for n in (1, 6)]
    assert [len(c.ids) for c in engine.generate(asked[:1])] == [1]
    assert not made  # one token comes from the prompt alone
    folded = engine.generate(asked)
    assert len(made) == 1
    monkeypatch.setattr(local, "suits", lambda model: False)
    plain = engine.generate(asked)
    assert [c.ids for c in plain] == [c.ids for c in folded]
    assert [len(c.ids) for c in plain] == [1, 6]


def test_only_small_models_on_a_processor_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(NANO, 0)
    assert suits(model)
    model.compute_dtype = torch.float16
    assert not suits(model)
    model.compute_dtype = torch.bfloat16
    for able in (True, False):
        monkeypatch.setattr("puna.engine.step._multiplies_bf16", lambda able=able: able)
        assert suits(model) is able
    assert not suits(build(NANO, 0, device="meta"))
    assert not suits(build(replace(LLAMA3, hidden_size=1024, intermediate_size=4096), 0))
