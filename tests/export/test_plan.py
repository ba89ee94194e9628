"""Plans: bytes by hand and beside what PyTorch allocates, edges that fit, mistakes in one line."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import puna
from benchmarks.plan import EYES, RANK, SMALL, TOLERANCE, Case, ProcessorMeter, compare
from puna import cli
from puna.core.errors import UserError
from puna.engine.cache import KVCache
from puna.engine.local import MEMORY
from puna.engine.pages import SIZE, Pages
from puna.export.device import RESERVED, find_device
from puna.export.eyes import looking
from puna.export.lora import adapter_parameters, lora_training
from puna.export.memory import cache_bytes, naive_cache_bytes, rope_bytes, training, weight_bytes
from puna.export.published import _shapes, published, published_names, recognise
from puna.models import lora
from puna.models.config import ModelConfig
from puna.models.hf import load, save
from puna.models.hf_config import config_to_hf
from puna.models.hf_vision import vision_to_hf
from puna.models.presets import build, preset, preset_names
from puna.models.rope import Rope
from puna.models.vision import TILES_AT_ONCE, VisionEncoder
from puna.models.vision_config import VisionConfig

SCOUT = preset("llama4-scout")


CASES = [*SMALL[:2], EYES, *(pytest.param(c, marks=pytest.mark.slow) for c in SMALL[2:])]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_plans_are_within_three_per_cent_of_what_torch_allocates(case: Case) -> None:
    for work, planned, measured in compare(case, "cpu"):
        assert planned == pytest.approx(measured.peak, rel=TOLERANCE), (work, measured)


def test_without_pictures_or_adapters_these_plans_would_be_far_off() -> None:
    rows = EYES.training
    seeing = training(EYES.config, *rows, 2, tiles=24)
    blind = training(EYES.config, *rows, 2)
    assert seeing.total > 1.1 * blind.total
    assert lora_training(EYES.config, *rows, 2, RANK).total < 0.5 * blind.total
    eyes = EYES.config.vision
    assert eyes is not None
    weights = eyes.num_parameters(EYES.config.hidden_size)
    assert seeing.gradients - blind.gradients == 4 * weights  # text alone teaches no eyes


@pytest.mark.parametrize("tiles", [5, TILES_AT_ONCE + 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_takes_what_is_planned_for_it(tiles: int, dtype: torch.dtype) -> None:
    shape, hidden = VisionConfig(128, 2, 8, tile_size=112, adapter_size=64, patch_id=3), 256
    config = replace(EYES.config, hidden_size=hidden, head_dim=64, vision=shape)
    watch = ProcessorMeter()
    eyes, _ = watch.peak(lambda: VisionEncoder(shape, hidden).to(dtype))
    eyes.initialise(torch.Generator().manual_seed(0))
    eyes.turns(torch.device("cpu"))
    held = watch.live
    pixels = torch.zeros(tiles, 3, 112, 112, dtype=torch.bfloat16)

    def look() -> torch.Tensor:  # as `VisionEncoder.look` does it
        given = torch.cat([pixels]).to(dtype)
        return torch.cat([torch.cat([eyes(part) for part in given.split(TILES_AT_ONCE)])])

    planned = looking(config, tiles, dtype.itemsize)
    with torch.no_grad():
        _, peak = watch.peak(look)
    assert planned.passing == pytest.approx(peak - held, rel=TOLERANCE)
    assert watch.live - held == planned.features
    held = watch.live
    _seen, _ = watch.peak(look)
    kept = planned.saved + planned.features
    assert watch.live - held == pytest.approx(kept, rel=TOLERANCE)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plain_weights_are_those_of_the_model(name: str, precision: str) -> None:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = build(preset(name), device="meta", dtype=dtype)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    assert weight_bytes(preset(name), precision) == held


@pytest.mark.parametrize("config", [preset("nano"), preset("nano-vision", moe_every=1),
                                    preset("llama3-1b", num_layers=2, vocab_size=8, bos_id=None,
                                           eos_ids=(), pad_id=None)])  # fmt: skip
def test_adapters_are_as_many_as_lora_attaches(config: ModelConfig) -> None:
    model = build(config)
    lora.attach(model, lora.LoraConfig(rank=3), seed=0)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter_parameters(config, 3) == learned > 0


def test_lora_on_eight_billion_fits_24_gb_and_all_of_it_does_not() -> None:
    found = puna.plan("llama3-8b", context=512, device="24GB", lora=16)
    assert found.fits
    assert found.train
    parts = {p.name: p.bytes for p in found.parts}
    assert parts["weights"] == 2 * 8_030_261_248
    assert parts["adapters"] == parts["gradients"] == parts["optimiser"] // 2 == 4 * 41_943_040
    assert not puna.plan("llama3-8b", context=512, device="24GB", train=True).fits
    wide = puna.plan("llama3-8b", context=512, device="24GB", lora=16, precision="fp32")
    assert {p.name: p.bytes for p in wide.parts}["weights"] == 4 * 8_030_261_248
    assert not wide.fits


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
@settings(max_examples=40)
def test_the_cache_is_the_engines_to_the_byte(
    rows: int, context: int, chunk: int | None, nope: int, wide: bool
) -> None:
    config = preset("nano", attention_chunk=chunk, nope_every=nope, max_positions=3000)
    dtype = torch.float32 if wide else torch.bfloat16
    pages = Pages(config, dtype, "meta")  # as an engine has them
    pages.expect([context] * rows)
    planned = cache_bytes(config, rows, context, 4 if wide else 2)
    assert planned == pages.bytes
    if context >= SIZE:
        assert planned == KVCache.fresh(config, rows, context, dtype, "meta").bytes


def test_a_cache_without_bounds_would_be_four_times_too_large() -> None:
    config = preset("nano", attention_chunk=16, num_layers=8, max_positions=100_000)
    held = KVCache.fresh(config, 1, 100_000, torch.bfloat16, "meta").bytes
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


def cached(plan: puna.Plan) -> int:
    return next(p.bytes for p in plan.parts if p.name == "cache")


def test_a_processor_gives_the_cache_so_much_and_no_more() -> None:
    """Where the engine would refuse a row, the plan does not fit, however large the machine."""
    found = puna.plan("llama3-8b", context=32768, device="here", precision="bf16")
    wide = replace(found.device, bytes=10**12, processor=True)
    here = replace(found, device=wide, cache_room=MEMORY)
    assert cached(here) > MEMORY
    assert not here.fits
    assert replace(here, cache_room=2 * MEMORY).fits


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
        if read < found.config.max_positions:
            more = again(context=read + 1)
            assert more.reading > room or cached(more) > more.cache_room
        assert cached(again(context=longest)) <= found.cache_room < 0.61 * room


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
        assert (found.like, found.facts) == ("llama4-scout", wanted.facts)
    assert puna.plan(tmp_path / "run", stage="sft", device="h200").parts == wanted.parts


def test_a_model_with_eyes_is_planned_with_them(tmp_path: Path) -> None:
    text = write_config(tmp_path / "text", SCOUT).parent
    both = tmp_path / "both"
    both.mkdir()
    data = vision_to_hf(VisionConfig(), config_to_hf(SCOUT, torch.bfloat16), both)
    (both / "config.json").write_text(json.dumps(data))
    plain, seeing = (puna.plan(d, device="h200", precision="int4") for d in (text, both))
    eyes = 2 * 871_932_416
    assert {p.name: p.bytes for p in seeing.parts}["vision encoder"] == eyes
    assert seeing.total - plain.total == eyes
    shown = puna.plan(both, device="h200", precision="int4", tiles=13)
    assert shown.total == seeing.total  # on a GPU: pixels stay in main memory
    assert shown.reading > seeing.reading + 13 * 144 * 5120 * 2 - 1
    assert "its vision part takes" in plain.text()
    assert "its vision part takes" not in seeing.text()
    assert "shape is that of llama4-scout, of which is published:" in seeing.text()
    with pytest.raises(UserError, match=r"tiles is 57; rows of 8,192 tokens, 144 a tile, hold 1"):
        puna.plan(both, tiles=57)


def test_a_directory_with_eyes_plans_what_loading_it_takes(tmp_path: Path) -> None:
    model = build(preset("nano-vision"))
    save(model, tmp_path / "model")
    held = sum(p.numel() * 4 for p in load(tmp_path / "model")[0].parameters())
    parts = {p.name: p.bytes for p in puna.plan(tmp_path / "model", precision="fp32").parts}
    assert parts["weights"] + parts["vision encoder"] == held
    assert parts["vision encoder"] == sum(p.numel() * 4 for p in model.vision.parameters())


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
        (["nano", "--lora", "-1"], "lora is -1; an adapter's rank is 1 to 65,536"),
        (["nano", "--tiles", "1"], "tiles is 1, and nano reads no images"),
        (["nano-vision", "--tiles", "-1"], "tiles is -1; rows of 1,024 tokens, 16 a tile, hold 1"),
        (["llama4-behemoth"], "neither layers nor widths nor weights are public"),
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
@settings(max_examples=150)
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
def test_any_text_is_a_device_or_one_line(text: str) -> None:
    with contextlib.suppress(UserError):  # which is one line, whatever it quotes
        assert find_device(text).bytes > RESERVED or text.strip().lower() == "here"


def test_here_is_this_machine() -> None:
    found = find_device("here")
    assert found.bytes > 10**8
    assert found.processor != torch.cuda.is_available()


def test_every_fact_has_a_source_and_a_date() -> None:
    assert {n for n in preset_names() if n.startswith("llama")} <= set(published_names())
    dated = re.compile(r"(card|blog|config|report|memory)\b.*\b20\d\d-\d\d")
    for name in published_names():
        facts = published(name)
        assert facts is not None
        assert "Llama" in facts.licence or facts.unreleased
        sources = [each["source"] for each in (*facts.results, *facts.offers, *facts.notes)]
        sources += [facts.context_source] if facts.accepted_context else []
        assert all(dated.search(source) for source in sources), name
        assert facts.accepted_context >= facts.trained_context
        if name in preset_names():
            most = preset(name).max_positions
            assert facts.accepted_context == most
            assert all(0 < offer["context"] <= most for offer in facts.offers)
    assert published("nano") is None
    assert published("_licences") is None


def test_shapes_are_recognised_and_others_are_not() -> None:
    """By sizes: ids, contexts and eyes may differ, a layer, an expert or a rotation may not."""
    for name, shape in _shapes().items():
        assert recognise(shape) == name
        base = replace(shape, max_positions=4096, bos_id=None, eos_ids=(), pad_id=None)
        assert recognise(base) == name
        assert recognise(replace(shape, num_layers=shape.num_layers - 1)) == ""
    assert recognise(replace(SCOUT, vision=VisionConfig(), rope_scaling=None)) == "llama4-scout"
    assert recognise(replace(SCOUT, num_experts=8)) == ""
    assert recognise(replace(SCOUT, attention_chunk=None)) == ""
    large = preset("llama3-8b")
    assert recognise(replace(large, rope_scaling=None)) == "llama3.0-8b"
    stretched = replace(large, rope_scaling=preset("llama3-1b").rope_scaling)
    assert recognise(stretched) == ""
    assert recognise(preset("nano")) == ""


def test_guard_4_is_scout_without_experts() -> None:
    shape = replace(_shapes()["llama-guard-4"], vision=VisionConfig())
    assert shape.num_parameters() == 12_001_097_216


def test_what_is_published_says_who_disagrees_and_how_sure_it_is() -> None:
    scout, takes = published("llama4-scout"), 262_144
    assert scout is not None
    said = "\n".join(scout.lines(takes))
    assert "Amazon Bedrock 3,500,000, but a catalogue says 10M (report" in said
    assert "the config at hand takes 262,144" in said
    assert "(memory, independent, about" in said
    assert "the config at hand" not in "\n".join(scout.lines(10_485_760))
    small = published("llama3.0-8b")
    assert small is not None
    assert small.lines()[0].startswith("8,192 tokens are accepted")
