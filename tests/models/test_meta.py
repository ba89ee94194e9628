"""Meta's layout, written here from transformers' checkpoints, in any number of shards, and read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from meta_layout import PARAMS, Evil, cut, released, write
from torch import Tensor

from puna.core.errors import UserError
from puna.models import ModelConfig, RopeScaling, load, save
from puna.models.meta import load_meta
from puna.models.rope import Rope

from .conftest import tokens

transformers = pytest.importorskip("transformers")


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


def _pickle(directory: Path) -> None:
    (directory / "consolidated.01.pth").write_bytes(pickle.dumps(Evil()))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut, r"consolidated\.01\.pth is not whole"),
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
