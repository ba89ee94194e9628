"""Meta's layout, written here from transformers' checkpoints, in any number of shards, and read."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from puna.core.errors import UserError
from puna.models import ModelConfig, RopeScaling, load, save
from puna.models.meta import load_meta
from puna.models.rope import Rope

from .conftest import spread, tokens

transformers = pytest.importorskip("transformers")

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SCALED = {"rope_theta": 5e5, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0}
LLAMA3 = {
    "intermediate_size": 96,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": SCALED | {"rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0},
}
LLAMA4 = {
    "intermediate_size": 48,
    "intermediate_size_mlp": 96,
    "num_local_experts": 4,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 8,
    "max_position_embeddings": 262_144,
    "rope_parameters": SCALED | {"rope_type": "llama3", "factor": 16.0, "high_freq_factor": 1.0},
}
PARAMS = {
    "dim": 64, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "norm_eps": 1e-5,
    "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": -1, "multiple_of": 32,
}  # fmt: skip
LLAMA4_PARAMS = PARAMS | {
    "nope_layer_interval": 4, "attention_chunk_size": 8, "use_qk_norm": True, "ffn_exp": 4.0,
    "moe_args": {"num_experts": 4, "interleave_moe_layer_step": 2, "top_k": 1},
}  # fmt: skip


def released(directory: Path, family: str, **changes: Any) -> dict[str, Tensor]:
    """A directory as transformers writes it; its tensors by their names there."""
    shape = LLAMA3 if family == "llama3" else LLAMA4
    config = transformers.LlamaConfig if family == "llama3" else transformers.Llama4TextConfig
    cls = transformers.LlamaForCausalLM if family == "llama3" else transformers.Llama4ForCausalLM
    model = cls(config(**(SHAPE | shape | changes)))
    spread(model)
    model.save_pretrained(directory)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """The rows of a head as Meta has them: 0, half, 1, half + 1, ..."""
    rows = [h * 8 + i + j for h in range(heads) for i in range(4) for j in (0, 4)]
    return weight[rows]


def write(directory: Path, hf: dict[str, Tensor], family: str, shards: int) -> None:
    """consolidated.*.pth and params.json, cut as Meta's model-parallel layers are."""
    llama4 = family == "llama4"

    def cut(name: str, dim: int) -> list[Tensor]:
        return list(hf[name].chunk(shards, dim))

    out: dict[str, list[Any]] = {
        "tok_embeddings.weight": cut("model.embed_tokens.weight", 0),
        "output.weight": cut("lm_head.weight", 0),
        "norm.weight": [hf["model.norm.weight"]] * shards,
        "rope.freqs": [torch.ones(4)] * shards,
    }
    for i in range(4):
        theirs, meta = f"model.layers.{i}.", f"layers.{i}."
        norm = [hf[theirs + "input_layernorm.weight"]] * shards
        q, k, v = (hf[f"{theirs}self_attn.{part}_proj.weight"] for part in "qkv")
        if llama4:
            parts = [t.chunk(shards, 0) for t in (q, k, v)]
            out[meta + "attention.wqkv.weight"] = [torch.cat(p) for p in zip(*parts, strict=True)]
            out[meta + "attention.wqkv.layer_norm_weight"] = norm
            out[meta + "attention.wqkv._extra_state"] = [io.BytesIO(b"fp8")] * shards
        else:
            few = min(shards, 4)  # more shards than key heads: each head stands several times
            wide = [shards // few] * few
            for part, weight in (("q", neighbours(q, 8)), ("k", neighbours(k, 4)), ("v", v)):
                n = shards if part == "q" else few
                pieces = list(weight.chunk(n, 0))
                if part != "q":
                    pieces = [p for p, w in zip(pieces, wide, strict=True) for _ in range(w)]
                out[f"{meta}attention.w{part}.weight"] = pieces
            out[meta + "attention_norm.weight"] = norm
        out[meta + "attention.wo.weight"] = cut(theirs + "self_attn.o_proj.weight", 1)
        second = [hf[theirs + "post_attention_layernorm.weight"]] * shards
        mlp = theirs + ("feed_forward." if llama4 else "mlp.")
        feed = meta + "feed_forward."
        if not llama4:
            for name, part, dim in (("w1", "gate", 0), ("w3", "up", 0), ("w2", "down", 1)):
                out[f"{feed}{name}.weight"] = cut(f"{mlp}{part}_proj.weight", dim)
            out[meta + "ffn_norm.weight"] = second
        elif i % 2 == 0:
            gate, up = cut(mlp + "gate_proj.weight", 0), cut(mlp + "up_proj.weight", 0)
            out[feed + "mlp.fc1_weight"] = [torch.cat(p) for p in zip(gate, up, strict=True)]
            out[feed + "mlp.fc2_weight"] = cut(mlp + "down_proj.weight", 1)
            out[feed + "mlp.layer_norm_weight"] = second
        else:
            gate, up = hf[mlp + "experts.gate_up_proj"].chunk(2, -1)
            for name, whole, dim in (
                ("moe_w_in_eD_F", gate, 2),
                ("moe_w_swiglu_eD_F", up, 2),
                ("moe_w_out_eF_D", hf[mlp + "experts.down_proj"], 1),
            ):
                slices = whole.chunk(shards, dim)
                out[f"{feed}experts.{name}"] = [s.reshape(-1, s.shape[-1]) for s in slices]
            stem = mlp + "shared_expert."
            out[feed + "w_in_shared_FD.weight"] = cut(stem + "gate_proj.weight", 0)
            out[feed + "w_swiglu_FD.weight"] = cut(stem + "up_proj.weight", 0)
            out[feed + "w_out_shared_DF.weight"] = cut(stem + "down_proj.weight", 1)
            out[feed + "router_DE"] = [hf[mlp + "router.weight"].t()] * shards
            out[feed + "global_gate_stats_3E"] = [torch.zeros(3, 4)] * shards
            out[feed + "norm.weight"] = second
    directory.mkdir()
    for s in range(shards):
        mine = {n: p[s].clone() if isinstance(p[s], Tensor) else p[s] for n, p in out.items()}
        torch.save(mine, directory / f"consolidated.{s:02d}.pth")
    params = LLAMA4_PARAMS if llama4 else PARAMS
    (directory / "params.json").write_text(json.dumps(params))


@pytest.mark.parametrize(
    ("family", "shards"),
    [("llama3", 1), ("llama3", 2), ("llama3", 8), ("llama4", 1), ("llama4", 4)],
)
def test_every_bit_of_the_published_form(tmp_path: Path, family: str, shards: int) -> None:
    hf = released(tmp_path / "hf", family)
    write(tmp_path / "meta", hf, family, shards)
    expected, config = load(tmp_path / "hf")
    model = load_meta(tmp_path / "meta", torch.float32)
    assert model.config == config
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    save(model, tmp_path / "again")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", dtype=torch.float32
    )
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, hf[name]), name


def test_the_head_of_a_small_model_is_its_embedding(tmp_path: Path) -> None:
    hf = released(tmp_path / "hf", "llama3", tie_word_embeddings=True)
    write(tmp_path / "meta", hf, "llama3", 2)
    model = load_meta(tmp_path / "meta")
    assert model.head is None
    assert model.config.tie_embeddings
    assert model.dtype == torch.bfloat16


def test_rows_are_moved_so_that_halves_turn_as_neighbours_did(tmp_path: Path) -> None:
    """Scores of Meta's own rows under Meta's own rotation; without the move they are others."""
    hf = released(tmp_path / "hf", "llama3")
    write(tmp_path / "meta", hf, "llama3", 1)
    raw = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=False)
    model = load_meta(tmp_path / "meta", torch.float32)
    scaling = RopeScaling(32.0, 1.0, 4.0, 8192)
    shape = (128, 64, 4, 8, 4, 8, 96)
    halves, pairs = (
        Rope(ModelConfig(f, *shape, rope_scaling=scaling)) for f in ("llama3", "llama4")
    )
    x = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(0))

    def scores(rope: Rope, q: Tensor, k: Tensor) -> Tensor:
        factors = rope.factors(None, 11, x.device, x.dtype)
        heads = [rope.apply((x @ w.t()).view(1, 12, -1, 8), factors) for w in (q, k)]
        return torch.einsum("bthd,bshd->bths", heads[0][:, :, ::2], heads[1])

    metas = [raw[f"layers.0.attention.w{part}.weight"] for part in "qk"]
    expected = scores(pairs, *metas)
    qkv = model.layers[0].attention.qkv.weight.detach()
    torch.testing.assert_close(scores(halves, qkv[:64], qkv[64:96]), expected, rtol=0, atol=1e-5)
    assert (scores(halves, *metas) - expected).abs().max() > 1e-3


def test_logits_are_those_of_the_published_form(tmp_path: Path) -> None:
    hf = released(tmp_path / "hf", "llama4")
    write(tmp_path / "meta", hf, "llama4", 2)
    ids = tokens(2, 20)
    with torch.no_grad():
        a, b = (
            m(ids) for m in (load_meta(tmp_path / "meta", torch.float32), load(tmp_path / "hf")[0])
        )
    assert torch.equal(a, b)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


def _resave(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        file = directory / "consolidated.01.pth"
        found = torch.load(file, weights_only=False)
        change(found)
        torch.save(found, file)

    return spoil


def _params(**changes: Any) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        data = {k: v for k, v in (PARAMS | changes).items() if v is not None}
        (directory / "params.json").write_text(json.dumps(data))

    return spoil


def _cut(directory: Path) -> None:
    file = directory / "consolidated.01.pth"
    file.write_bytes(file.read_bytes()[:-3000])


def _pickle(directory: Path) -> None:
    (directory / "consolidated.01.pth").write_bytes(pickle.dumps(Evil()))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_cut, r"consolidated\.01\.pth is not whole"),
    "code": (
        _resave(lambda t: t.update(x=Evil())),
        r"consolidated\.01\.pth holds more than tensors",
    ),
    "a pickle": (_pickle, r"consolidated\.01\.pth (holds more than tensors|is not whole)"),
    "one lacks": (_resave(lambda t: t.__delitem__("norm.weight")), "norm.weight is not in both"),
    "integers": (
        _resave(lambda t: t.update({"output.weight": t["output.weight"].int()})),
        "output.weight is torch.int32",
    ),
    "a slice": (
        _resave(lambda t: t.update({"layers.1.attention.wo.weight": torch.zeros(3, 3)})),
        r"shards of layers\.1\.attention\.wo\.weight do not fit",
    ),
    "layers": (_params(n_layers=3), r"has a tensor layers\.3\.\S+, which is not of Llama 3 or 4"),
    "more layers": (_params(n_layers=5), r"has no tensor layers\.4\."),
    "width": (_params(dim=32), r"tok_embeddings\.weight is \[128, 64\], params\.json says"),
    "a field": (_params(norm_eps=None), r"params\.json has no field 'norm_eps'"),
    "no params": (lambda d: (d / "params.json").unlink(), r"no file .*params\.json"),
    "no shards": (
        lambda d: [f.unlink() for f in d.glob("*.pth")] and None,
        r"no file .*consolidated\.pth",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write(tmp_path / "meta", released(tmp_path / "hf", "llama3"), "llama3", 2)
    load_meta(tmp_path / "meta")
    spoil, told = BROKEN[name]
    spoil(tmp_path / "meta")
    capsys.readouterr()
    with pytest.raises(UserError, match=told) as raised:
        load_meta(tmp_path / "meta")
    assert "\n" not in str(raised.value)
    assert "unpickled" not in capsys.readouterr().out
