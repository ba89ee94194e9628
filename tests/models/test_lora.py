"""LoRA: what is adapted and what is frozen, merged as it was trained, and read by `peft`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.core.errors import UserError
from puna.engine.cache import KVCache
from puna.engine.step import Step
from puna.models import Decoder, ModelConfig, load, save
from puna.models.adapters import Adapter, ExpertAdapter
from puna.models.lora import (
    EXPERTS,
    MODULES,
    LoraConfig,
    adapters,
    attach,
    learned,
    load_learned,
    merge,
    reset,
    save_adapter,
    without,
)

from .conftest import TINY, tokens, wide

MERGED = 1e-5
WIDE_MARGIN = 100 * MERGED
DENSE = ModelConfig("llama3", 128, 64, 2, 4, 2, 16, 96)
SHAPES = {"llama3": DENSE, "qwen2": replace(DENSE, family="qwen2"), "llama4": TINY}


def adapted(config: ModelConfig, rank: int = 3, targets: tuple[str, ...] = ()) -> Decoder:
    """A model whose adapters are far from zero, as after training."""
    model = wide(config)
    attach(model, LoraConfig(rank, 2.0 * rank, targets), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in learned(model).items():
            if ".b." in name or name.endswith(".b"):
                tensor.normal_(0.0, 0.05, generator=generator)
    return model


@torch.no_grad()
def logits(model: Decoder, ids: torch.Tensor | None = None) -> torch.Tensor:
    return model.logits(model(tokens(2, 20) if ids is None else ids))


def test_an_increment_by_hand() -> None:
    """Rank 1, scale 3: q gets 3 * b * (a . x), k nothing."""
    adapter = Adapter({"q_proj": 2, "k_proj": 1}, ["q_proj"], inputs=2, rank=1, scale=3.0)
    with torch.no_grad():
        adapter.a["q_proj"].copy_(torch.tensor([[1.0, 2.0]]))
        adapter.b["q_proj"].copy_(torch.tensor([[1.0], [-1.0]]))
        out = adapter(torch.tensor([[10.0, 1.0]]))
    assert out.tolist() == [[36.0, -36.0, 0.0]]
    assert adapter.delta().tolist() == [[3.0, 6.0], [-3.0, -6.0], [0.0, 0.0]]
    experts = ExpertAdapter(torch.Size((1, 2, 1)), rank=1, scale=0.5)
    with torch.no_grad():
        experts.a.copy_(torch.tensor([[[1.0], [2.0]]]))
        experts.b.fill_(4.0)
    assert experts.delta().tolist() == [[[2.0], [4.0]]]


@pytest.mark.parametrize("family", SHAPES)
def test_fresh_adapters_change_nothing_and_alone_learn(family: str) -> None:
    model = wide(SHAPES[family])
    before = logits(model)
    attach(model, LoraConfig(rank=2), seed=0)
    assert torch.equal(logits(model), before)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns == set(learned(model))
    model.logits(model(tokens(2, 20))).logsumexp(-1).mean().backward()
    given = {name for name, p in model.named_parameters() if p.grad is not None}
    assert given == learns
    moved = [p for name, p in model.named_parameters() if ".b." in name or name.endswith(".b")]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in moved)


@pytest.mark.parametrize("target", [*MODULES, *EXPERTS])
def test_each_target_is_merged_as_it_was_trained(target: str) -> None:
    model = adapted(TINY, targets=(target,))
    trained = logits(model)
    with without(model):
        plain = logits(model)
    assert torch.equal(plain, logits(wide(TINY)))
    assert (trained - plain).abs().max() > WIDE_MARGIN
    merge(model)
    assert not adapters(model)
    assert model.state_dict().keys() == wide(TINY).state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(logits(model), trained, rtol=0, atol=MERGED)


@pytest.mark.parametrize("family", SHAPES)
def test_the_folded_step_has_the_adapters(family: str) -> None:
    model = adapted(SHAPES[family])
    ids = tokens(3, 16)
    expected = logits(model, ids)
    cache = KVCache.fresh(model.config, 3, 16)
    with torch.no_grad():
        model(ids[:, :15], cache=cache)
        got = Step(model)(ids[:, 15], torch.full((3,), 15), cache)
    torch.testing.assert_close(got, expected[:, -1], rtol=0, atol=MERGED)
    with without(model):
        assert (logits(model, ids) - expected)[:, -1].abs().max() > WIDE_MARGIN


def test_what_was_learned_moves_to_another_model_and_is_reset() -> None:
    model, other = adapted(TINY), wide(TINY)
    attach(other, LoraConfig(3, 6.0), seed=5)
    load_learned(other, learned(model))
    assert torch.equal(logits(other), logits(model))
    reset(other)
    assert torch.equal(logits(other), logits(wide(TINY)))
    attach(plain := wide(DENSE), LoraConfig(), seed=0)
    with pytest.raises(RuntimeError, match="another model's"):
        load_learned(plain, learned(model))


def test_the_seed_decides_the_first_draw() -> None:
    drawn = []
    for seed in (0, 0, 1):
        attach(model := wide(DENSE), LoraConfig(), seed)
        drawn.append(learned(model)["layers.0.attention.qkv.adapter.a.q_proj"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].abs().max() <= 64**-0.5


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"names 'experts.down_proj'; this model has q_proj, k_"):
        attach(wide(DENSE), LoraConfig(targets=("q_proj", "experts.down_proj")), 0)
    with pytest.raises(ValueError, match="names 'qproj'; did you mean 'q_proj'"):
        LoraConfig(targets=("qproj",))
    with pytest.raises(ValueError, match="rank is 0"):
        LoraConfig(rank=0)


def test_in_bf16_the_base_stays_and_the_adapters_are_fp32() -> None:
    model = wide(TINY).to(torch.bfloat16)
    base = {name: p.clone() for name, p in model.named_parameters()}
    attach(model, LoraConfig(2), 0)
    assert {p.dtype for p in learned(model).values()} == {torch.float32}
    model.logits(model(tokens(2, 9))).logsumexp(-1).mean().backward()
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    merge(model)
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters())


PEERS: dict[str, tuple[ModelConfig, tuple[str, ...]]] = {
    "dense": (DENSE, ()),
    "attention": (DENSE, ("q_proj", "v_proj")),
    "qwen": (replace(DENSE, family="qwen2"), ()),
    "experts": (TINY, ()),
    "one of the experts' two": (TINY, ("experts.down_proj",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PEERS)
def test_peft_computes_the_same(tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config, targets = PEERS[kind]
    save(wide(config), tmp_path / "base")
    model = adapted(config, targets=targets)
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32
    ).eval()
    ids = tokens(2, 20)

    def theirs(read: Callable[[], Any]) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = read()(ids, use_cache=False).logits
        return found

    plain = theirs(lambda: base)
    got = theirs(lambda: peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval())
    torch.testing.assert_close(got, logits(model, ids), rtol=0, atol=MERGED)
    assert (got - plain).abs().max() > WIDE_MARGIN
    merge(model)
    save(model, tmp_path / "merged")
    torch.testing.assert_close(got, logits(load(tmp_path / "merged")[0], ids), rtol=0, atol=MERGED)
