"""Plans: bytes by hand and beside what PyTorch allocates, edges that fit, mistakes in one line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import puna
from benchmarks.plan import SMALL, TOLERANCE, Case, compare
from puna import cli
from puna.core.errors import UserError
from puna.engine.cache import KVCache
from puna.export.device import RESERVED, find_device
from puna.export.memory import cache_bytes, naive_cache_bytes, rope_bytes, training, weight_bytes
from puna.export.published import _tables, published
from puna.models.config import ModelConfig
from puna.models.hf_config import config_to_hf
from puna.models.presets import build, preset, preset_names
from puna.models.rope import Rope

SCOUT = preset("llama4-scout")


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_plans_are_within_three_per_cent_of_what_torch_allocates(case: Case) -> None:
    for work, planned, measured in compare(case, "cpu"):
        assert planned == pytest.approx(measured.peak, rel=TOLERANCE), (work, measured)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plain_weights_are_those_of_the_model(name: str, precision: str) -> None:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = build(preset(name), device="meta", dtype=dtype)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    assert weight_bytes(preset(name), precision) == held


def test_quantised_scout_is_what_its_makers_release() -> None:
    experts = 48 * 17 * 3 * 5120 * 8192  # 16 routed and the shared one, three matrices each
    rest = 2 * (SCOUT.num_parameters() - experts)
    assert weight_bytes(SCOUT, "int4") == experts // 2 + 4 * experts // 128 + rest
    assert weight_bytes(SCOUT, "int4") == pytest.approx(51.3e9 + 3.2e9 + 10.2e9, rel=0.002)
    rows = 48 * 17 * (2 * 8192 + 5120)
    assert weight_bytes(SCOUT, "int8") == experts + 4 * rows + rest


def test_quantised_rows_that_no_group_divides_have_one_scale_more() -> None:
    config = preset("nano", num_experts=0, expert_size=0, num_layers=1)
    matrices = 192 * 64 * 3
    scales = 2 * 192 * 1 + 64 * 2  # rows of 64 and of 192 weights
    rest = 2 * (config.num_parameters() - matrices)
    assert weight_bytes(config, "int4") == matrices // 2 + 4 * scales + rest


@pytest.mark.parametrize(
    ("context", "bounded", "naive"), [(131_072, 7.65e9, 25.77e9), (1_048_576, 52.7e9, 206.2e9)]
)
def test_scouts_cache_is_bounded_by_its_chunks(context: int, bounded: float, naive: float) -> None:
    assert cache_bytes(SCOUT, 1, context, 2) == pytest.approx(bounded, rel=0.002)
    assert naive_cache_bytes(SCOUT, 1, context, 2) == pytest.approx(naive, rel=0.002)


@given(
    rows=st.integers(1, 5),
    context=st.integers(1, 3000),
    chunk=st.one_of(st.none(), st.integers(1, 200)),
    nope=st.integers(0, 3),
    wide=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_cache_is_the_engines_to_the_byte(
    rows: int, context: int, chunk: int | None, nope: int, wide: bool
) -> None:
    config = preset("nano", attention_chunk=chunk, nope_every=nope, max_positions=3000)
    dtype = torch.float32 if wide else torch.bfloat16
    held = KVCache(config, rows, context, dtype, "meta").bytes
    assert cache_bytes(config, rows, context, 4 if wide else 2) == held


def test_a_cache_without_bounds_would_be_four_times_too_large() -> None:
    config = preset("nano", attention_chunk=16, num_layers=8, max_positions=100_000)
    held = KVCache(config, 1, 100_000, torch.bfloat16, "meta").bytes
    assert naive_cache_bytes(config, 1, 100_000, 2) > 3.9 * held


@pytest.mark.parametrize("name", ["nano", "llama3-1b"])
@pytest.mark.parametrize("tokens", [1, 256, 257, 5000])
def test_the_table_of_rotations_is_ropes(name: str, tokens: int) -> None:
    rope = Rope(preset(name))
    rope.factors(None, tokens - 1, torch.device("cpu"), torch.float32)
    assert rope_bytes(preset(name), tokens) == rope._table.numel() * rope._table.element_size()


def test_training_keeps_sixteen_bytes_a_weight_and_grows_with_tokens() -> None:
    config = preset("llama3-8b")
    small, large = training(config, 1, 512, 2), training(config, 2, 512, 2)
    assert small.weights + small.gradients + small.optimizer == 16 * config.num_parameters()
    assert large.saved == 2 * small.saved
    assert (large.casts, large.logits) == (small.casts, 4 * 1024 * 128256)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("model", ["llama3-1b", "llama4-scout"])
def test_what_fits_is_the_most_that_fits(model: str, train: bool) -> None:
    device = "3TB" if model == "llama4-scout" else "40GB" if train else "6GB"
    found = puna.plan(model, context=2048, device=device, train=train)
    assert found.fits
    assert found.total == sum(p.bytes for p in found.parts)

    def again(**changed: int) -> puna.Plan:
        return puna.plan(model, **{"context": 2048, **changed}, device=device, train=train)

    longest, most = found.longest_context, found.most_rows
    assert longest > 2048
    assert most > 1
    assert again(context=longest).fits
    assert longest == found.config.max_positions or not again(context=longest + 1).fits
    assert again(batch=most).fits
    assert not again(batch=most + 1).fits
    if not train:
        room = found.device.usable
        read = found.longest_prompt
        assert 2048 < read <= longest
        assert again(context=read).reading <= room
        assert read == found.config.max_positions or again(context=read + 1).reading > room


def test_a_model_that_is_too_large_says_how_many_devices_its_weights_need() -> None:
    found = puna.plan("llama4-maverick", device="h100")
    assert not found.fits
    assert (found.longest_context, found.longest_prompt, found.most_rows) == (0, 0, 0)
    room = 81559 * 2**20 - RESERVED
    assert found.devices_for_weights == -(-2 * found.config.num_parameters() // room) == 10
    assert "does not fit" in found.text()


def write_config(directory: Path, config: ModelConfig) -> Path:
    directory.mkdir(parents=True)
    file = directory / "config.json"
    file.write_text(json.dumps(config_to_hf(config, torch.bfloat16)))
    return file


def test_a_config_a_directory_a_stage_and_a_preset_plan_alike(tmp_path: Path) -> None:
    file = write_config(tmp_path / "run" / "sft" / "model", SCOUT)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"stages": [{"id": "sft"}]}))
    wanted = puna.plan("llama4-scout", device="h200")
    for path in (file, file.parent, tmp_path / "run" / "sft", tmp_path / "run"):
        found = puna.plan(path, device="h200")
        assert (found.parts, found.longest_context) == (wanted.parts, wanted.longest_context)
        assert found.facts is None
    assert puna.plan(tmp_path / "run", stage="sft", device="h200").parts == wanted.parts


def test_the_verb_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "llama4-scout", "--precision", "int4", "--context", "131072"]
    assert cli.main([*asked, "--device", "h100"]) == 0
    said = capsys.readouterr().out
    for part in ("7.65 GB", "if all did: 25.77 GB", "trained at 262,144 tokens, 10,485,760 are"):
        assert part in said
    assert cli.main([*asked, "--device", "h100", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fits"] is True
    assert data["total"] == sum(p["bytes"] for p in data["parts"])
    assert data["config"]["num_experts"] == 16


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["lama3-8b"], "no model 'lama3-8b'; did you mean 'llama3-8b'?"),
        (["no/such/dir"], "nothing at no/such/dir; name a preset"),
        (["nano", "--precision", "int5"], "precision 'int5' is unknown; did you mean 'int"),
        (["nano", "--train", "--precision", "int4"], "training in 'int4'; give bf16 or fp32"),
        (["nano", "--context", "0"], "context is 0; nano takes 1 to 1,024"),
        (["nano", "--context", "2000"], "context is 2000; nano takes 1 to 1,024"),
        (["nano", "--context", "many"], "puna plan:"),
        (["nano", "--batch", "-1"], "batch is -1; a plan has 1 to 1,048,576"),
        (["nano", "--batch", str(10**30)], "batch is 1000"),
        (["nano", "--device", "h1000"], "no device 'h1000'; did you mean 'h100'?"),
        (["nano", "--device", "12"], "device of 12: not a size of memory"),
        (["nano", "--device", "1e99GB"], "device of 1e99GB: not a size of memory"),
        (["nano", "--stage", "sft"], "nano is a preset, so it has no stage 'sft'"),
        ([], "puna plan:"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *args]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_other_types_than_numbers_are_refused_by_name() -> None:
    for wrong in (8.5, "8k", True, None):
        with pytest.raises(UserError, match="batch is"):
            puna.plan("nano", batch=wrong)  # type: ignore[arg-type]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(changed=st.dictionaries(st.sampled_from(sorted(config_to_hf(SCOUT, torch.float32))), VALUES))
@settings(max_examples=150, deadline=None)
def test_any_config_gets_a_plan_or_one_line(
    changed: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "config.json"
    file.write_text(json.dumps(config_to_hf(SCOUT, torch.float32) | changed))
    with contextlib.suppress(UserError):  # which is one line, whatever it quotes
        assert puna.plan(file, device="80GB").total > 0


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"x"', '{"model_type": "llama"}', "\0"])
def test_broken_files_get_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        puna.plan(file)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("80g", 80 * 10**9),
        ("80e9", 80 * 10**9),
        ("1.5 TB", 15 * 10**11),
        ("H200", 143771 * 2**20),
        ("a100", 80 * 10**9),
    ],
)
def test_devices_by_name_and_by_size(text: str, size: int) -> None:
    assert find_device(text).bytes == size
    assert find_device(text).usable == size - RESERVED


@given(st.one_of(st.text(), st.from_regex(r"[0-9.e]{1,6} ?[kmgtKMGT]?i?[bB]?", fullmatch=True)))
@settings(deadline=None)
def test_any_text_is_a_device_or_one_line(text: str) -> None:
    with contextlib.suppress(UserError):  # which is one line, whatever it quotes
        assert find_device(text).bytes > RESERVED or text.strip().lower() == "here"


def test_here_is_this_machine() -> None:
    found = find_device("here")
    assert found.bytes > 10**8
    assert found.processor != torch.cuda.is_available()


def test_facts_belong_to_presets_and_have_a_source_each() -> None:
    names = [name for name in _tables() if not name.startswith("_")]
    assert set(names) <= set(preset_names())
    assert {n for n in preset_names() if n.startswith("llama")} <= set(names)
    for name in names:
        facts = published(name)
        assert facts is not None
        assert "Llama" in facts.licence
        assert all(each["source"] for each in (*facts.results, *facts.offers))
        assert all(0 < offer["context"] <= preset(name).max_positions for offer in facts.offers)
        if facts.accepted_context:
            assert facts.accepted_context == preset(name).max_positions > facts.trained_context
            assert facts.context_source
    assert published("nano") is None
    assert published("_licences") is None
