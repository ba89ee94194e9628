"""Sharded directories: what they need of memory, what is written, and every way to be broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from puna.core.errors import UserError
from puna.models import ModelConfig, load, save

from .conftest import wide

SMALL = ModelConfig("llama3", 128, 64, 2, 4, 2, 16, 96)
INDEX = "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]

# What is counted is the most address space: an upper bound of what is resident, and unlike it no
# matter of what the kernel has taken back. A first small load pays what PyTorch takes once.
MEASURE = r"""
import contextlib, re, sys
from pathlib import Path
import torch
from puna.models import ModelConfig, build, hf, load, save

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmPeak:\s+(\d+) kB", status)[1]) * 1024

torch.set_num_threads(1)
what, tiny, big = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if what == "make":
    save(build(ModelConfig("llama3", 128, 64, 1, 4, 2, 16, 96), 0), tiny)
    shape = ModelConfig("llama3", 4000, 1024, 6, 8, 4, 128, 3072)
    save(build(shape, 0), big, max_shard_bytes=60_000_000)
    sys.exit()
model, _ = load(tiny)
save(model, tiny)
if what == "held":  # every file stays open, as it would without care
    opened = hf._open
    hf._open = lambda path, kept=[]: contextlib.nullcontext(kept.append(opened(path)) or kept[-1])
before = peak()
model, config = load(big)
if what == "save":
    before = peak() - 4 * config.num_parameters()
    save(model, big.parent / "again", torch.bfloat16, max_shard_bytes=60_000_000)
print(peak() - before - 4 * config.num_parameters())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_loading_and_saving_need_one_shard_more_than_the_model(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("tiny", "big")]

    def child(what: str) -> int:
        command = [sys.executable, "-c", MEASURE, what, *places]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(out or 0)

    child("make")
    sizes = [p.stat().st_size for p in (tmp_path / "big").glob("*.safetensors")]
    assert sum(sizes) > 300e6
    assert len(sizes) > 5
    allowed = 2 * 1.2 * max(sizes)  # safetensors maps a file twice, its pages are there once
    assert child("load") <= allowed
    assert child("save") <= allowed
    assert child("held") > 2 * allowed


def test_shards_have_an_index_and_come_back(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = wide(SMALL)
    save(model, tmp_path, max_shard_bytes=60_000)
    index = json.loads((tmp_path / INDEX).read_text())
    files = {p.name: load_file(p) for p in tmp_path.glob("*.safetensors")}
    assert {n: f for f, tensors in files.items() for n in tensors} == index["weight_map"]
    sizes = [sum(t.nbytes for t in tensors.values()) for tensors in files.values()]
    assert len(files) > 4
    assert max(sizes) <= 60_000
    assert sum(sizes) == index["metadata"]["total_size"] == 4 * SMALL.num_parameters()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    again, _ = load(tmp_path)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert torch.equal(theirs.lm_head.weight, again.head.weight)


def test_another_number_of_shards_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    save(wide(SMALL, seed=0), tmp_path, max_shard_bytes=60_000)
    (tmp_path / "model-of-mine.safetensors").write_text("mine")
    save(wide(SMALL, seed=1), tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["config.json", "model-of-mine.safetensors", "model.safetensors"]
    assert torch.equal(load(tmp_path)[0].embed, wide(SMALL, seed=1).embed)


def _file(directory: Path) -> Path:
    """The file with layer 1's query projection."""
    index = json.loads((directory / INDEX).read_text())
    return directory / index["weight_map"]["model.layers.1.self_attn.q_proj.weight"]


def _rewrite(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    return lambda directory: save_file(change(load_file(_file(directory))), _file(directory))


def _truncate(directory: Path) -> None:
    data = _file(directory).read_bytes()
    _file(directory).write_bytes(data[:-100])


def _tamper(directory: Path) -> None:
    """The header says another length for a tensor than its offsets."""
    data = _file(directory).read_bytes()
    _file(directory).write_bytes(data.replace(b'"shape":[64,64]', b'"shape":[64,99]', 1))


def _remap(name: str, file: str | None) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        index = json.loads((directory / INDEX).read_text())
        if file is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = file
        (directory / INDEX).write_text(json.dumps(index))

    return change


def _config(**changes: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changes))

    return change


QUERY = "model.layers.1.self_attn.q_proj.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncate, r"model-\d+-of-\d+\.safetensors is not whole"),
    "tampered": (_tamper, r"model-\d+-of-\d+\.safetensors is not whole"),
    "whole numbers": (_rewrite(lambda t: {n: v.int() for n, v in t.items()}), r"\w+ is I32, not"),
    "eight bits": (
        _rewrite(lambda t: {n: v.to(torch.float8_e4m3fn) for n, v in t.items()}),
        r"is F8_E4M3, not one of F32, F16, BF16; quantised",
    ),
    "shape": (_rewrite(lambda t: t | {QUERY: t[QUERY][1:].clone()}), r"weight is \[63, 64\], the"),
    "nan": (_rewrite(lambda t: t | {QUERY: t[QUERY] / 0}), rf"{QUERY} holds values that are not"),
    "gone": (_rewrite(lambda t: {"other": t[QUERY]}), r"model-\d+-of-\d+\.safetensors: .*q_proj"),
    "missing": (_remap(QUERY, None), rf"has no tensor {QUERY}"),
    "extra": (_remap("model.layers.9.x", "any.safetensors"), r"tensor model.layers.9.x,"),
    "outside": (_remap(QUERY, "../secret.safetensors"), "lies in '../secret.safetensors', not in"),
    "absolute": (_remap(QUERY, "/etc/passwd"), "lies in '/etc/passwd', not in a file beside"),
    "no file": (_remap(QUERY, "absent.safetensors"), r"no file .*absent\.safetensors"),
    "architecture": (
        _config(model_type="gpt2"),
        "model_type = 'gpt2' is not supported; needs one of",
    ),
    "text for a number": (_config(hidden_size="64"), "hidden_size = '64' is not supported"),
    "no heads": (
        _config(num_attention_heads=0, head_dim=None),
        r"config\.json: num_attention_heads = 0 is not supported; needs above 0",
    ),
    "text for a table": (_config(rope_scaling="yarn"), "rope_scaling = 'yarn' is not supported"),
    "family": (_config(model_type="qwen2"), r"has no tensor model.layers.0.self_attn.k_proj.bias"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    save(wide(SMALL), tmp_path, max_shard_bytes=60_000)
    load(tmp_path)
    spoil, told = BROKEN[name]
    spoil(tmp_path)
    with pytest.raises(UserError, match=told) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["vision_model.class_embedding", "model.layers.0.self_attn.rotary_emb.inv_freq"]
)
def test_what_the_text_model_has_no_use_for_is_passed_over(tmp_path: Path, name: str) -> None:
    save(wide(SMALL), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {name: torch.zeros(3)}, tmp_path / "model.safetensors")
    load(tmp_path)
