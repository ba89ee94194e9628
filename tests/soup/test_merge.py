"""Averages to the last bit of fp32 arithmetic, refusals by name, and nothing half written."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_run import environment

from puna.core.errors import UserError
from puna.models import ModelConfig, build, load, lora, lora_files, save
from puna.soup import stream
from puna.soup.merge import merge
from puna.soup.tensors import FLOATS, rounded
from puna.text.tokenizer import Tokenizer

SHAPES = {"a.weight": (5, 7), "b": (3,), "c": (2, 3, 4), "one": ()}
CONFIG = {"model_type": "llama", "num_attention_heads": 4, "torch_dtype": "float32"}


def write(directory: Path, tensors, **config) -> Path:
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    (directory / "tokenizer.json").write_text('{"a": 1}')
    return directory


def random_tensors(seed: int, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def members(tmp_path: Path, count: int, dtype=torch.float32) -> list[Path]:
    return [write(tmp_path / f"m{i}", random_tensors(i, dtype)) for i in range(count)]


def merged(out: Path):
    return load_file(out / "model.safetensors")


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8)
    )


def test_by_hand(tmp_path):
    one = write(tmp_path / "one", {"w": torch.tensor([1.0, 2.0, -4.0])})
    two = write(tmp_path / "two", {"w": torch.tensor([3.0, 2.0, 0.0])})
    merge([one, two], None, tmp_path / "even")
    assert merged(tmp_path / "even")["w"].tolist() == [2.0, 2.0, -2.0]
    found = merge([one, two], [3, 1], tmp_path / "heavy")
    assert merged(tmp_path / "heavy")["w"].tolist() == [1.5, 2.0, -3.0]
    assert found.weights == (0.75, 0.25)
    record = json.loads((tmp_path / "heavy" / "soup.json").read_text())
    assert record["weights"] == [0.75, 0.25]
    assert record["members"] == [str(one), str(two)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [None, [1, 2, 1], [0.1, 0.7, 0.4]])
def test_equal_to_fp32_averaging_to_the_last_bit(tmp_path, dtype, weights, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 4)  # tensors of several blocks
    models = members(tmp_path, 3, dtype)
    merge(models, weights, tmp_path / "soup")
    found, given_ = merged(tmp_path / "soup"), [merged(m) for m in models]
    coarse = 0
    for name in SHAPES:
        stacked = torch.stack([g[name].float() for g in given_])
        if weights is None:
            wanted = stacked.mean(0)
        else:
            w = torch.tensor(weights, dtype=torch.float32).view(-1, *[1] * (stacked.dim() - 1))
            wanted = (w * stacked).sum(0) / w.sum()
        assert same_bits(found[name], wanted.to(dtype)), name
        low = sum(g[name] for g in given_) / 3  # in the members' own dtype
        coarse += int(not same_bits(found[name], low))
    if dtype != torch.float32:
        assert coarse >= 2  # without fp32 sums it would not hold


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["BF16", "F16", "F32"]))
def test_rounding_is_torchs(seed, code):
    """Any bits, the halves between two neighbours, the smallest numbers; infinities are refused."""
    bits = np.random.default_rng(seed).integers(0, 2**32, 512, dtype=np.uint32)
    bits[:128] = bits[:128] & 0xFFFF0000 | 0x8000  # a tie in bfloat16
    bits[128:160] &= 0x807FFFFF  # below the normal numbers
    values = bits.view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < FLOATS[code][1])]
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[code]
    wanted = torch.from_numpy(values.copy()).to(dtype)
    found = rounded(values.copy(), code, np.empty_like(values))
    assert found.tobytes() == wanted.view(torch.uint8).numpy().tobytes()
    assert wanted.isfinite().all()


@settings(max_examples=30)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=9),
    st.lists(st.floats(0.125, 8, width=32), min_size=2, max_size=4),
)
def test_equal_members_are_their_own_average(tmp_path_factory, values, weights):
    place = tmp_path_factory.mktemp("soup")
    model = write(place / "m", {"w": torch.tensor(values)})
    found = merge([model] * len(weights), weights, place / "soup")
    assert found.notes == (f"{model} is given {len(weights)} times: its share counts each time",)
    torch.testing.assert_close(merged(place / "soup")["w"], torch.tensor(values))
    assert math.isclose(sum(found.weights), 1.0)


def test_the_average_of_one_is_its_copy(tmp_path):
    (model,) = members(tmp_path, 1)
    merge([model], None, tmp_path / "copy")
    files = [d / "model.safetensors" for d in (model, tmp_path / "copy")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_first_members_dtype_files_and_another_dtype(tmp_path):
    first = write(tmp_path / "first", random_tensors(0, torch.bfloat16))
    second = write(tmp_path / "second", random_tensors(1, torch.float32), rope_theta=1.0)
    for name in ("tokenizer_config.json", "LICENSE", "optimizer.safetensors", "checkpoint.json"):
        (first / name).write_text("{}")
    merge([first, second], None, tmp_path / "soup")
    assert {t.dtype for t in merged(tmp_path / "soup").values()} == {torch.bfloat16}
    names = {p.name for p in (tmp_path / "soup").iterdir()}
    own = {"model.safetensors", "soup.json"}
    assert names == own | {"config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"}
    merge([first, second], None, tmp_path / "wide", "float32")
    assert {t.dtype for t in merged(tmp_path / "wide").values()} == {torch.float32}
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["torch_dtype"] == "float32"
    wanted = (merged(first)["b"].float() + merged(second)["b"]) / 2
    assert same_bits(merged(tmp_path / "wide")["b"], wanted)


def test_settings_that_differ_are_noted(tmp_path):
    a = write(tmp_path / "a", random_tensors(0), rope_theta=1.0)
    b = write(tmp_path / "b", random_tensors(1), rope_theta=2.0)
    assert merge([a, b], None, tmp_path / "s").notes == (
        f"{b} differs in rope_theta: {a}'s are kept",
    )


def test_shards(tmp_path):
    whole = members(tmp_path, 2)
    parts, tensors = tmp_path / "parts", merged(whole[0])
    parts.mkdir()
    names = list(tensors)
    mapping = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(mapping.values()):
        save_file({n: tensors[n] for n in names if mapping[n] == file}, parts / file)
    index = parts / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    (parts / "config.json").write_text(json.dumps(CONFIG))
    merge([parts, whole[1]], None, tmp_path / "a")
    merge(whole, None, tmp_path / "b")
    files = [tmp_path / x / "model.safetensors" for x in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "a" / index.name).exists()
    index.write_text(json.dumps({"weight_map": {**mapping, "z": mapping["b"]}}))
    with pytest.raises(UserError, match=r"-of-00002\.safetensors has no tensor z"):
        merge([parts, whole[1]], None, tmp_path / "c")
    index.write_text("{}")
    with pytest.raises(UserError, match=r"index\.json is broken: KeyError"):
        merge([parts, whole[1]], None, tmp_path / "c")


def test_what_is_written_is_what_safetensors_writes(tmp_path):
    models = members(tmp_path, 2)
    merge(models, None, tmp_path / "soup")
    both = [merged(m) for m in models]
    wanted = {n: (both[0][n] + both[1][n]) / 2 for n in SHAPES}
    save_file(wanted, tmp_path / "wanted", metadata={"format": "pt"})
    assert (tmp_path / "soup" / "model.safetensors").read_bytes() == (
        tmp_path / "wanted"
    ).read_bytes()


def test_whole_numbers_must_be_equal(tmp_path):
    numbers = torch.arange(6)
    models = [
        write(tmp_path / n, {"w": torch.ones(2), "ids": ids})
        for n, ids in (("a", numbers), ("b", numbers), ("c", numbers + 1))
    ]
    merge(models[:2], None, tmp_path / "soup")
    assert merged(tmp_path / "soup")["ids"].equal(numbers)
    with pytest.raises(UserError, match=r"ids is I64 and differs in .*c/model\.s.* and .*a/"):
        merge([models[0], models[2]], None, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def changed(tmp_path, tensors=None, **config):
    a = write(tmp_path / "a", random_tensors(0))
    return [a, write(tmp_path / "b", tensors or random_tensors(1), **config)]


def test_other_shapes_are_refused_by_name(tmp_path):
    models = changed(tmp_path, random_tensors(1) | {"b": torch.ones(4)})
    with pytest.raises(
        UserError, match=r"b is \[3\] in .*a/model\.safetensors and \[4\] in .*b/model\.s"
    ):
        merge(models, None, tmp_path / "soup")


@pytest.mark.parametrize("turned", [False, True])
def test_missing_and_extra_tensors_are_refused(tmp_path, turned):
    models = changed(tmp_path, {n: t for n, t in random_tensors(1).items() if n != "c"})
    said = r"b has no tensor c, which .*a/model\.safetensors has \[2, 3, 4\]"
    with pytest.raises(UserError, match=said):
        merge(models[::-1] if turned else models, None, tmp_path / "soup")


def test_a_padded_vocabulary_is_another_shape(tmp_path):
    models = [real(tmp_path / "plain", 0), real(tmp_path / "padded", 1, vocab_size=320)]
    said = r"lm_head\.weight is \[300, 32\] in .*plain.* and \[320, 32\] in .*padded"
    with pytest.raises(UserError, match=said):
        merge(models, None, tmp_path / "soup")


def test_other_vocabularies_and_heads_are_refused(tmp_path):
    models = changed(tmp_path, num_attention_heads=8)
    with pytest.raises(UserError, match=r"num_attention_heads is 4 in .*a/config\.json and 8 in"):
        merge(models, None, tmp_path / "soup")
    (models[1] / "tokenizer.json").write_text('{"a": 2}')
    with pytest.raises(UserError, match=r"a/tokenizer\.json \(\w+\) and .*b/tokenizer\.json"):
        merge(models, None, tmp_path / "soup")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1], "1 weights for 2 models"),
        ([], "0 weights for 2 models"),
        ([1, 2, 3], "3 weights for 2 models"),
        ([1, math.nan], "give finite numbers"),
        ([1, math.inf], "give finite numbers"),
        ([0, 0], "sum to 0"),
        ([1, -1], "sum to 0"),
    ],
)
def test_weights_that_are_no_shares(tmp_path, weights, said):
    with pytest.raises(UserError, match=said):
        merge(members(tmp_path, 2), weights, tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_values_that_are_not_finite_are_refused(tmp_path):
    spoilt = random_tensors(1)
    spoilt["c"][1, 2, 3] = math.nan
    models = changed(tmp_path, spoilt)
    with pytest.raises(UserError, match=r"b/model\.safetensors: c holds values that are not"):
        merge(models, None, tmp_path / "soup")
    big = [write(tmp_path / n, {"w": torch.full((3,), x)}) for n, x in (("p", 6e4), ("q", -6e4))]
    with pytest.raises(UserError, match=r"the average of w is not finite as F16"):
        merge(big, [3, -1.5], tmp_path / "soup", "float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "p", "q"]


def test_sums_that_overflow_are_no_error(tmp_path):
    """The quick look at a block's sum must not refuse what is finite."""
    models = [write(tmp_path / n, {"w": torch.full((4,), 1e38)}) for n in ("p", "q")]
    merge(models, None, tmp_path / "soup")
    assert merged(tmp_path / "soup")["w"].tolist() == torch.full((4,), 1e38).tolist()


def test_broken_and_missing_files_are_named(tmp_path):
    models = members(tmp_path, 2)
    file = models[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"m1/model\.safetensors is not whole"):
        merge(models, None, tmp_path / "soup")
    file.unlink()
    with pytest.raises(UserError, match=r"no file .*m1/model\.safetensors"):
        merge(models, None, tmp_path / "soup")
    (models[0] / "config.json").unlink()
    with pytest.raises(UserError, match=r"no file .*m0/config\.json"):
        merge([models[0], models[0]], None, tmp_path / "soup")


def test_nothing_that_is_there_is_overwritten_but_a_soup(tmp_path):
    models = members(tmp_path, 2)
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for out, said in ((other, "is no soup"), (models[1], "the member"), (tmp_path, "the member")):
        with pytest.raises(UserError, match=said):
            merge(models, None, out)
    assert (other / "thesis.txt").exists()
    for weights in ([1, 1], [1, 3]):
        merge(models, weights, tmp_path / "soup")
    wanted = (merged(models[0])["b"] + 3 * merged(models[1])["b"]) / 4
    assert same_bits(merged(tmp_path / "soup")["b"], wanted)


def test_a_full_disk_leaves_nothing(tmp_path):
    models = [write(tmp_path / n, {"w": torch.ones(300_000)}) for n in ("a", "b")]
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000,) * 2);"
        f"from puna.cli import main; main(['soup', {str(models[0])!r}, {str(models[1])!r},"
        f"'-o', {str(tmp_path / 'soup')!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.stderr.startswith(f"puna: cannot write {tmp_path / 'soup'}: File too large")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


POINTS = ("soup.record.renamed", "soup.tensor:2", "soup.written", "soup.cleared")


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_writing_leaves_no_half_directory(tmp_path, point):
    models, out = members(tmp_path, 2), tmp_path / "soup"
    if point == "soup.cleared":
        merge(models, [1, 3], out)
    code = (
        "from pathlib import Path; from puna.soup.merge import merge;"
        f"merge([Path({str(models[0])!r}), Path({str(models[1])!r})], None, Path({str(out)!r}))"
    )
    env = environment({"PUNA_CRASH_AT": point})
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.glob(".soup.*"))) >= 1
    merge(models, None, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m0", "m1", "soup"]
    assert same_bits(merged(out)["b"], (merged(models[0])["b"] + merged(models[1])["b"]) / 2)


def test_memory_does_not_grow_with_the_models(tmp_path):
    """Each member has 96 MB in two tensors, four are averaged: 384 MB, and 48 MB the largest."""
    names = [tmp_path / f"m{i}" for i in range(4)]
    for i, path in enumerate(names):
        write(path, {n: torch.full((12_000_000,), float(i)) for n in ("x", "y")})
    code = (
        "import resource; from pathlib import Path; from puna.soup.merge import merge;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"import torch; torch.ones(9).mean(); before = peak();"
        f"merge([Path(p) for p in {[str(n) for n in names]}], None, Path({str(tmp_path / 's')!r}));"
        "print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 48 * 1024, done.stdout  # kB
    with safe_open(tmp_path / "s" / "model.safetensors", framework="pt") as f:
        assert float(f.get_slice("y")[-1]) == 1.5


def real(directory: Path, seed: int, **shape) -> Path:
    values = {"vocab_size": 300, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
    values |= {"num_kv_heads": 2, "head_dim": 8, "intermediate_size": 48} | shape
    model = build(ModelConfig(**({"family": "llama3"} | values)), seed)
    for i, layer in enumerate(model.layers):
        if values.get("num_experts") and seed:
            layer.feed_forward.expert_bias.fill_(0.25 * (i + seed))
    save(model, directory)
    Tokenizer.train(["0123456789 + - ="] * 3, 300).save(directory)
    return directory


def test_a_moved_expert_bias_counts_as_zero_where_it_is_not_stored(tmp_path):
    """A model whose routers were never balanced has no such tensor in its file."""
    shape = {"family": "llama4", "num_experts": 2, "expert_size": 16}
    models = [real(tmp_path / str(i), i, **shape) for i in range(3)]
    merge(models[:2], None, tmp_path / "soup", "bfloat16")
    model, _ = load(tmp_path / "soup")
    assert model.layers[0].feed_forward.expert_bias.tolist() == [0.125, 0.125]
    assert merged(tmp_path / "soup")["puna.layers.0.expert_bias"].dtype == torch.float32
    merge(models, [2, 1, 1], tmp_path / "three")
    model, _ = load(tmp_path / "three")
    assert model.layers[1].feed_forward.expert_bias.tolist() == [0.3125, 0.3125]


def adapted(directory: Path, base: Path, seed: int, targets=()) -> Path:
    """Adapters on `base` whose products are far from nothing, in peft's files."""
    model, _ = load(base, torch.float32)
    lora.attach(model, lora.LoraConfig(4, 8.0, targets), seed)
    generator = torch.Generator().manual_seed(seed)
    for _, tensor in lora.pairs(model):
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) / 8)
    lora.save_adapter(model, directory, str(base))
    return directory


def plain(directory: Path, adapter: Path) -> Path:
    """The same model, merged by the model's own code."""
    config, base = lora_files.read_config(adapter)
    model, _ = load(base, torch.float32)
    lora.attach(model, config, 0)
    lora_files.load_adapter(model, adapter)
    lora.merge(model)
    save(model, directory)
    return directory


MOE = {"family": "llama4", "num_experts": 3, "expert_size": 16}


@pytest.mark.parametrize("block", [16, 1000, 1 << 18])  # less than a row, several rows, all of them
@pytest.mark.parametrize(
    ("shape", "targets"),
    [({}, ()), (MOE, ()), (MOE, ("experts.gate_up_proj",)), (MOE, ("experts.down_proj", "o_proj"))],
)
def test_adapters_are_averaged_as_products(tmp_path, block, shape, targets, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", block)
    base = real(tmp_path / "base", 0, **shape)
    one, two = (adapted(tmp_path / n, base, s, targets) for n, s in (("one", 1), ("two", 2)))
    merge([one, two, base], [2, 1, 1], tmp_path / "soup")
    full = [merged(plain(tmp_path / f"{n.name}-full", n)) for n in (one, two)]
    bottom, found = merged(base), merged(tmp_path / "soup")
    moved = sum(not torch.equal(found[n], bottom[n]) for n in found)
    assert moved >= 2
    factors = [load_file(n / "adapter_model.safetensors") for n in (one, two)]
    apart = 0.0
    for name, value in found.items():
        wanted = (2 * full[0][name] + full[1][name] + bottom[name]) / 4
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in factors[0]:  # what averaging A and B apart would give
            a, b = ((2 * f0 + f1) / 4 for f0, f1 in (
                [f[f"{stem}.lora_{x}.weight"] for f in factors] for x in "AB"
            ))  # fmt: skip
            apart = max(apart, float((bottom[name] + 2 * b @ a - value).abs().max()))
    assert apart > 0.05 or "experts.gate_up_proj" in targets  # 50,000 times the tolerance
    assert (tmp_path / "soup" / "tokenizer.json").exists()
    assert load(tmp_path / "soup")[1].hidden_size == 32


def test_adapters_that_have_no_place_are_refused(tmp_path):
    base = real(tmp_path / "base", 0)
    cut = adapted(tmp_path / "cut", base, 1)
    tensors = load_file(cut / "adapter_model.safetensors")
    left = {n: t for n, t in tensors.items() if "layers.1.mlp.up_proj.lora_B" not in n}
    for held, said in ((left, "up_proj.lora_A.weight has no matrix"), (
        tensors | {"x.bias": torch.ones(2)}, r"x\.bias is no adapter of a matrix",
    )):  # fmt: skip
        save_file(held, cut / "adapter_model.safetensors")
        with pytest.raises(UserError, match=said + r".*puna export .*cut --out DIR merges it"):
            merge([cut, base], None, tmp_path / "soup")
    lost = adapted(tmp_path / "lost", base, 1)
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"lost adapts .*base, which is not there"):
        merge([lost, lost], None, tmp_path / "soup")
    other = real(tmp_path / "base", 0, intermediate_size=40)
    with pytest.raises(UserError, match=r"has no matrix in .*base"):
        merge([lost, other], None, tmp_path / "soup")


def test_equal_weights_of_two_names_are_noted(tmp_path):
    a, b = (write(tmp_path / n, random_tensors(0)) for n in "ab")
    c = write(tmp_path / "c", random_tensors(0) | {"a.weight": random_tensors(1)["a.weight"]})
    found = merge([a, b, c], None, tmp_path / "soup")
    assert found.notes == (f"{a} and {b} have the same weights: both shares count",)
    close = random_tensors(0, shapes={"w": (90, 90)})
    late = {"w": close["w"].clone()}
    late["w"][89, 89] += 1  # equal at first sight
    models = [write(tmp_path / n, t) for n, t in (("d", close), ("e", late))]
    assert merge(models, None, tmp_path / "soup").notes == ()


def test_no_room_on_the_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    models = members(tmp_path, 2)
    usage = shutil.disk_usage(tmp_path)._replace(free=200)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = r"cannot write .*soup: it takes 0\.00 GB, and 0\.00 GB are free; free some space"
    with pytest.raises(UserError, match=said):
        merge(models, None, tmp_path / "new" / "soup")
    assert not (tmp_path / "new").exists()


def test_a_plain_merge_needs_no_torch(tmp_path):
    """It is most of what a small merge would cost."""
    models = [real(tmp_path / str(i), i) for i in range(2)]
    code = (
        "import sys; from puna.cli import main;"
        f"assert main(['soup', {str(models[0])!r}, {str(models[1])!r}, '-o',"
        f"{str(tmp_path / 'soup')!r}]) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
    assert (tmp_path / "soup" / "config.json").exists()


def test_tied_and_untied_heads_do_not_mix(tmp_path):
    models = [real(tmp_path / "tied", 0, tie_embeddings=True), real(tmp_path / "untied", 1)]
    with pytest.raises(UserError, match=r"tied has no tensor lm_head\.weight, which .*untied"):
        merge(models, None, tmp_path / "soup")


def test_what_mergekit_would_give(tmp_path):
    """Its linear method: weights times tensors, summed, over the weights' sum; and it loads."""
    models = [real(tmp_path / str(i), i) for i in range(2)]
    merge(models, [0.3, 0.9], tmp_path / "soup")
    found, _ = load(tmp_path / "soup")
    both = [load(m)[0].state_dict() for m in models]
    for name, value in found.state_dict().items():
        wanted = (0.3 * both[0][name] + 0.9 * both[1][name]) / 1.2
        torch.testing.assert_close(value, wanted)
        assert not torch.allclose(value, both[0][name]) or "norm" in name or "bias" in name
