"""`puna export`: Meta's layout in, transformers' and Meta's out; whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from meta_layout import VOCAB, Evil, cut, released, write, write_ranks
from safetensors.torch import load_file
from test_lora_runs import stage
from tiny_run import finish, killed, run, write_stage
from tiny_run import puna as command

import puna
from puna.cli import main
from puna.core.errors import UserError
from puna.core.runs import find_model, weights_hash
from puna.models import RopeScaling, build, load, preset
from puna.soup.merge import merge
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import load_model, save_model

transformers = pytest.importorskip("transformers")

EYES = {
    "vision_embeddings.vision_encoder.conv1._linear.weight": torch.ones(250, 1000),
    "vision_projection.weight": torch.ones(64, 16),
}
SAID = "the cat isn't in the hat, 1234 others are"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Family -> a model as transformers wrote it, and the same in Meta's layout."""
    out = {}
    for family, shards in (("llama3", 2), ("llama4", 4)):
        where = tmp_path_factory.mktemp(family)
        hf = released(where / "hf", family, vocab_size=VOCAB[family])
        more = EYES if family == "llama4" else None
        write(where / "meta", hf, family, shards, more)
        write_ranks(where / "meta")
        (where / "meta" / "LICENSE.txt").write_text("a licence")
        out[family] = where / "hf", where / "meta"
    return out


def logits(directory: Path, ids: list[int]) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


@pytest.mark.parametrize("family", ["llama3", "llama4"])
def test_transformers_computes_what_the_original_did(
    published: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    hf, meta = published[family]
    assert main(["export", str(meta), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "LICENSE.txt",
    }  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    own = Tokenizer.load(meta)
    ids = tokenizer(SAID)["input_ids"]
    assert ids == [own.special("begin_of_text"), *own.encode(SAID)]
    assert torch.equal(logits(tmp_path / "out", ids), logits(hf, ids))
    assert not torch.equal(logits(hf, ids[::-1]), logits(hf, ids))
    if family == "llama4":
        assert said[1:] == [
            "left out: image weights (2 tensors, 4.0 MB); statistics of experts (2 tensors, 0.0 MB)"
        ]
    else:
        assert len(said) == 1
    assert "parameters as float32" in said[0]


@pytest.mark.parametrize("family", ["llama3", "llama4"])
def test_meta_and_back_is_every_bit(published: Any, tmp_path: Path, family: str) -> None:
    _, meta = published[family]
    puna.export(meta, tmp_path / "a", dtype="bfloat16")
    done = puna.export(tmp_path / "a", tmp_path / "b", layout="meta")
    assert {p.name for p in (tmp_path / "b").iterdir()} >= {"params.json", "consolidated.00.pth"}
    assert [left.split()[0] for left in done.left_out] == ["tokenizer.model"]
    puna.export(tmp_path / "b", tmp_path / "c")
    first, last = (load_file(tmp_path / d / "model.safetensors") for d in "ac")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[n], last[n]) for n in first)
    assert {t.dtype for t in first.values()} == {torch.bfloat16}
    a, c = (json.loads((tmp_path / d / "config.json").read_text()) for d in "ac")
    assert a == c
    again = puna.export(meta, tmp_path / "d", layout="meta")
    assert (tmp_path / "d" / "tokenizer.model").read_bytes() == (
        meta / "tokenizer.model"
    ).read_bytes()
    expected = {"llama3": [], "llama4": ["image", "statistics"]}[family]
    assert [left.split()[0] for left in again.left_out] == expected
    before, after = (load(d, torch.float32)[0].state_dict() for d in (meta, tmp_path / "d"))
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_what_meta_has_no_word_for_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["one and one is two"], 290)
    shape = preset("nano", vocab_size=290, hidden_size=32, num_layers=2, num_heads=2)
    for low in (1.0, 2.0):
        scaled = replace(shape, rope_scaling=RopeScaling(8.0, low, 4.0, 8192), norm_eps=1e-6)
        model = build(scaled, 0)
        for name, bias in model.named_buffers():
            if name.endswith("expert_bias"):
                bias[1] = 5.0  # every token goes there
        save_model(model, tokenizer, tmp_path / str(low))
    with pytest.raises(UserError, match=r"Meta's layout cannot say rope_scaling = .*=2\.0"):
        puna.export(tmp_path / "2.0", tmp_path / "out", layout="meta")
    assert not (tmp_path / "out").exists()
    done = puna.export(tmp_path / "1.0", tmp_path / "out", layout="meta")
    assert "tie_embeddings" in done.left_out[1]  # the head is written out, and so is the same
    assert "bias that balances experts" in done.left_out[0]
    ids = torch.tensor([tokenizer.encode("one and two is one")])
    with torch.no_grad():
        a, b = (load(tmp_path / d)[0](ids) for d in ("1.0", "out"))
    assert torch.equal(a, b)
    for name, bias in model.named_buffers():
        if name.endswith("expert_bias"):
            bias.zero_()
    with torch.no_grad():
        assert not torch.equal(a, model.eval()(ids))


def test_what_is_counted_is_what_was_written(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["one and one is two"], 290)
    shape = preset("nano-vision", vocab_size=290, hidden_size=32, num_layers=2, num_heads=2)
    save_model(build(shape, 0), tokenizer, tmp_path / "eyes")
    whole = puna.export(tmp_path / "eyes", tmp_path / "hf")
    text = puna.export(tmp_path / "eyes", tmp_path / "meta", layout="meta")
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert whole.parameters == sum(t.numel() for t in found.values())
    cut = torch.load(tmp_path / "meta" / "consolidated.00.pth")
    tied = {"output.weight"} if shape.tie_embeddings else set()
    assert text.parameters == sum(t.numel() for n, t in cut.items() if n not in tied)
    assert text.parameters < whole.parameters
    assert text.bytes == 4 * text.parameters
    assert any("image weights" in left for left in text.left_out), text.left_out


def test_every_verb_takes_metas_directory(
    published: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf, meta = published["llama3"]
    planned = [puna.plan(d, context=64).to_json()["parts"] for d in (meta, hf)]
    assert planned[0] == planned[1]
    assert find_model(meta) == (meta, "meta")
    shutil.copytree(hf, tmp_path / "both")
    Tokenizer.load(meta).save(tmp_path / "both")
    both = (puna.load(d) for d in (meta, tmp_path / "both"))
    a, b = (m.sample("the cat", max_tokens=5, temperature=0).ids for m in both)
    assert a == b
    assert puna.load(meta).chat("the hat", max_tokens=3).role == "assistant"
    found = puna.eval(meta, "arithmetic", n=2, max_tokens=2, out=tmp_path / "eval")
    assert found.score.n_tasks == 2
    with pytest.raises(UserError, match=r"is in Meta's layout; puna export \S+ --out DIR"):
        merge([meta, hf], None, tmp_path / "soup")
    assert weights_hash(meta) != weights_hash(hf)


def test_a_stage_starts_from_metas_directory(published: Any, tmp_path: Path) -> None:
    _, meta = published["llama3"]
    (tmp_path / "chats.jsonl").write_text('{"prompt": "the cat", "completion": "sat"}\n' * 4)
    recipe = write_stage(
        tmp_path,
        "sft",
        meta,
        data=str(tmp_path / "chats.jsonl"),
        max_tokens=None,
        steps=1,
        row_length=256,
    )
    done = run(recipe, tmp_path / "run")
    assert done.code == 0, done.err
    model, tokenizer = load_model(tmp_path / "run" / "sft")
    assert model.config.vocab_size == tokenizer.vocab_size == VOCAB["llama3"]
    assert tokenizer.encode(SAID) == Tokenizer.load(meta).encode(SAID)
    before = load(meta)[0]
    moved = (model.embed - before.embed).abs().max()
    assert 0 < moved < 0.1


def test_killed_it_leaves_nothing_under_the_name(published: Any, tmp_path: Path) -> None:
    _, meta = published["llama3"]
    done = command("export", meta, "--out", tmp_path / "out", crash="export.written")
    assert done.code == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    assert command("export", meta, "--out", tmp_path / "out").code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    load(tmp_path / "out")


def test_what_is_there_is_not_touched(published: Any, tmp_path: Path) -> None:
    _, meta = published["llama3"]
    (tmp_path / "empty").mkdir()
    puna.export(meta, tmp_path / "empty")
    before = sorted(p.name for p in (tmp_path / "empty").iterdir())
    with pytest.raises(UserError, match="empty is there already; choose another --out"):
        puna.export(meta, tmp_path / "empty", dtype="bfloat16")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == before
    with pytest.raises(UserError, match="no dtype 'bfloat15'; did you mean 'bfloat16'"):
        puna.export(meta, tmp_path / "x", dtype="bfloat15")
    with pytest.raises(UserError, match="no layout 'gguf'"):
        puna.export(meta, tmp_path / "x", layout="gguf")


def _evil(directory: Path) -> None:
    torch.save({"norm.weight": Evil()}, directory / "consolidated.01.pth")


def _nan(directory: Path) -> None:
    found = torch.load(directory / "consolidated.01.pth", weights_only=False)
    found["layers.2.attention.wo.weight"][0, 0] = float("nan")
    torch.save(found, directory / "consolidated.01.pth")


def _gone(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "params": (lambda d: (d / "params.json").write_text("{") and None, "params.json is broken"),
    "no params": (_gone("params.json"), "no file DIR/params.json"),
    "cut": (cut, "consolidated.01.pth is not whole"),
    "the last is missing": (_gone("consolidated.01.pth"), "DIR has 1 of 2 files consolidated"),
    "the first is missing": (_gone("consolidated.00.pth"), "no file DIR/consolidated.00.pth"),
    "code": (_evil, "consolidated.01.pth holds more than tensors"),
    "not a number": (_nan, "layers.2.attention.wo.weight holds values that are not finite"),
    "no tokenizer": (_gone("tokenizer.model"), "no tokenizer.model in DIR"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_line(
    published: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(published["llama3"][1], tmp_path / "meta")
    spoil, told = BROKEN[name]
    spoil(tmp_path / "meta")
    assert main(["export", str(tmp_path / "meta"), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert "unpickled" not in out
    assert len(err.splitlines()) == 1
    assert told.replace("DIR", str(tmp_path / "meta")) in err
    assert [p.name for p in tmp_path.iterdir()] == ["meta"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with experts, for adapters of every kind."""
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
    config = preset("nano", vocab_size=290, intermediate_size=48, expert_size=24, **shape)
    directory = tmp_path_factory.mktemp("start") / "model"
    save_model(build(config, 0), Tokenizer.train(["one and one is two"], 290), directory)
    return directory


def test_adapters_are_merged(start: Path, tmp_path: Path) -> None:
    """Those in peft's files, and those of the last checkpoint before the stage was finished."""
    recipe = stage(tmp_path, start, "sft")
    killed(recipe, tmp_path / "run", "adapter.renamed:1")
    step = max((tmp_path / "run" / "sft" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "sft" / "model").exists()
    puna.export(step, tmp_path / "from-step")
    (start / "LICENSE").write_text("of the base")
    adapter = tmp_path / "run" / "sft" / "adapter"
    puna.export(adapter, tmp_path / "from-adapter")
    assert (tmp_path / "from-adapter" / "LICENSE").read_text() == "of the base"
    with pytest.raises(UserError, match=r"is not a run, so it has no stage 'rl'; leave it out"):
        puna.export(adapter, tmp_path / "x", stage="rl")
    finish(recipe, tmp_path / "run")
    puna.export(tmp_path / "run", tmp_path / "from-run")
    final = load_file(tmp_path / "run" / "sft" / "model" / "model.safetensors")
    for name in ("from-step", "from-adapter", "from-run"):
        found = load_file(tmp_path / name / "model.safetensors")
        assert found.keys() == final.keys()
        assert all(torch.equal(found[n], final[n]) for n in final), name
    base = load_file(start / "model.safetensors")
    assert sum(not torch.equal(base[n], final[n]) for n in base) > 10
    shutil.move(start, start.with_name("gone"))
    with pytest.raises(UserError, match=r"adapts \S+model, which is not there; put it back"):
        puna.export(adapter, tmp_path / "x")
