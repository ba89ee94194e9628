"""Midtraining: the same weights with room for more, documents whole, both contexts measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import digests, finish, killed, run, write_recipe

from puna.core.errors import UserError
from puna.core.stage import StageContext
from puna.evals.bits import bits_per_byte
from puna.models import load
from puna.models.config import RopeScaling
from puna.text.corpus import Corpus
from puna.text.packing import IGNORE
from puna.train import midtrain
from puna.train.checkpoint import load_model, save_model
from puna.train.loop import Trainer


def test_the_weights_stay_and_the_room_grows(new_model, tmp_path, tokenizer):
    model = new_model(max_positions=64)
    longer = midtrain.extended(model, 512)
    assert (model.config.max_positions, longer.config.max_positions) == (64, 512)
    assert longer.config.rope_theta == model.config.rope_theta
    ids = torch.arange(3, 40)[None]
    assert torch.equal(model(ids), longer(ids))
    assert midtrain.extended(model, 32).config.max_positions == 64  # never less
    with torch.no_grad():
        longer.embed.zero_()
    assert bool(model.embed.any())
    save_model(longer, tokenizer, tmp_path / "model")
    assert load(tmp_path / "model")[1].max_positions == 512


def test_a_slower_rotation_by_hand(new_model):
    """The angles of pair i are position / theta^(i / 8) with 16 values a head: pair 4 has sqrt."""
    model = new_model()
    slower = midtrain.extended(model, 512, 4_000_000.0)
    positions = torch.tensor([[0, 100]])
    for each, theta in ((model, 500_000.0), (slower, 4_000_000.0)):
        (factors,) = each.rope.factors(positions, 100, torch.device("cpu"), torch.float32)
        angle = torch.angle(factors[0, 1, 0, 4])
        assert float(angle) == pytest.approx(100 / theta**0.5, rel=1e-4)
    ids = torch.arange(3, 40)[None]
    assert not torch.allclose(model(ids), slower(ids), atol=1e-3)


def test_scaled_frequencies_by_hand(new_model):
    """Of 8 pairs, those whose wavelength is above 64 / 1 turn 4 times slower."""
    model = new_model()
    scaled = midtrain.extended(model, 512, 0.0, RopeScaling(4.0, 1.0, 1.0, 64))
    positions = torch.tensor([[0, 1]])
    angles = [
        torch.angle(each.rope.factors(positions, 1, torch.device("cpu"), torch.float32)[0][0, 1, 0])
        for each in (model, scaled)
    ]
    wavelengths = 2 * torch.pi / angles[0]
    expected = torch.where(wavelengths > 64, angles[0] / 4, angles[0])
    assert 0 < int((wavelengths > 64).sum()) < 8
    torch.testing.assert_close(angles[1], expected)
    assert scaled.config.rope_theta == model.config.rope_theta


def test_long_documents_have_their_share_of_every_batch(ctx, new_model, tokenizer):
    documents = [list(range(1, 65))] * 3 + [list(range(1, 40))] * 30
    packed = midtrain._pack(documents, 64)
    long = {i for i, row in enumerate(packed.documents_NT) if len(set(row.tolist())) == 1}
    assert len(long) == 3

    def mixture(row_length=64, **settings):
        packed = midtrain._pack(documents, row_length)
        config = midtrain.Config(row_length=row_length, batch_tokens=64 * 5, **settings)
        trainer = Trainer(ctx, new_model(), tokenizer, config.optim, 10, 10, "text")
        return midtrain._Mixture(ctx, config, Corpus([], [], "", {}), trainer, packed)

    half = mixture(long_share=0.5)
    drawn = [half.batch(step).tolist() for step in range(10)]
    counts = [sum(i in long for i in rows) for rows in drawn]
    assert {len(rows) for rows in drawn} == {5}
    assert set(counts) == {2, 3}
    assert sum(counts) == 25
    seen = [i for rows in drawn for i in rows if i not in long]
    assert len(set(seen)) == 25  # other rows: none again before all were there
    assert half.batch(3).tolist() == drawn[3]
    assert sum(i in long for step in range(6) for i in mixture().batch(step)) == 3
    assert all(i in long for i in mixture(long_share=1.0).batch(0))
    with pytest.raises(UserError, match="no document fills a row of 128 tokens"):
        mixture(128, long_share=0.1)


def test_documents_that_fit_stay_whole_and_long_ones_lose_no_target():
    documents = [list(range(100, 100 + n)) for n in (3, 7, 8, 20, 1)]
    packed = midtrain._pack(documents, 8)
    pieces = [8, 8, 6]  # of the 20: each begins where the one before ended
    assert sorted(np.unique(packed.documents_NT)) == [-1, *range(4 + len(pieces))]
    for length in (3, 7, 8):
        rows = [row for row in packed.ids_NT.tolist() if list(range(100, 100 + length))[-1] in row]
        whole = ",".join(map(str, range(100, 100 + length)))
        assert any(whole in ",".join(map(str, row)) for row in rows), length
    learned = packed.targets_NT[packed.targets_NT != IGNORE].tolist()
    assert sorted(learned) == sorted(t for d in documents for t in d[1:])
    assert int(packed.positions_NT.max()) == 7


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"context": 256}, "context is 256, must be 0, or at least row_length = 512"),
        ({"row_length": 1}, "row_length is 1"),
        ({"steps": 0}, "steps is 0"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"short_context": -1}, "short_context is -1"),
        ({"held_out": 0.0}, "held_out is 0.0"),
        ({"long_share": 1.5}, "long_share is 1.5"),
    ],
)
def test_settings_that_cannot_train_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        midtrain.Config(**wrong)


def test_contexts_to_measure():
    known = midtrain.Origin({}, "", 128)
    assert midtrain._contexts(midtrain.Config(), known) == [128, 512]
    assert midtrain._contexts(midtrain.Config(row_length=128), known) == [128]
    assert midtrain._contexts(midtrain.Config(short_context=64), known) == [64, 512]
    assert midtrain._contexts(midtrain.Config(), None) == [128, 512]


def test_without_a_model_there_is_nothing_to_do(ctx):
    with pytest.raises(UserError, match="nothing to start from"):
        midtrain.run(ctx, midtrain.Config())


MIDTRAIN = """
[[stage]]
id = "{id}"
kind = "midtrain"
from = ["{parent}"]
steps = 4
batch_tokens = 256
row_length = 128
eval_bytes = 9000
save_every = 2
rope_theta = 1e6
long_share = 0.5
context = 2048
optim = {{ lr = 1e-3, warmup = 1, schedule = "linear", final = 0.0 }}

[stage.rope_scaling]
factor = 8.0
low_freq_factor = 1.0
high_freq_factor = 4.0
original_max_position = 64
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A pretrained run, and its recipe with two midtrain stages behind."""
    root = tmp_path_factory.mktemp("grown")
    recipe = write_recipe(root / "recipe")
    pretrained = recipe.read_text().partition('[[stage]]\nid = "sft"')[0]
    pretrained = pretrained.replace("eval_bytes = 2000", "eval_bytes = 9000")
    recipe.write_text(pretrained)
    for number in range(8, 40):  # enough that several are held out
        lines = [f"word{i * i % (17 + number)} is {i} and {number}" for i in range(70)]
        (root / "recipe" / "text" / f"{number}.txt").write_text("\n".join(lines))
    finish(recipe, root / "run")
    longer = root / "longer.toml"
    stages = [MIDTRAIN.format(id=i, parent=p) for i, p in (("mid", "pretrain"), ("more", "mid"))]
    longer.write_text(pretrained + "".join(stages))
    return root / "run", longer


def record(directory: Path, stage: str):
    return json.loads((directory / stage / "stage.json").read_text())


def test_a_run_goes_on_at_longer_context_and_resumes_exactly(grown, tmp_path):
    before, recipe = grown
    whole, broken = (Path(shutil.copytree(before, tmp_path / n)) for n in ("whole", "broken"))
    wanted = finish(recipe, whole)
    assert len(set(wanted.values())) == 3
    for point in ("checkpoint.renamed:1", "metrics.appended:2", "model.renamed:1"):
        killed(recipe, broken, point)
    assert finish(recipe, broken) == wanted == digests(broken)
    mine, theirs = (record(d, "mid")["result"] for d in (whole, broken))
    assert mine["bits_per_byte"] == theirs["bits_per_byte"]
    parents = record(whole, "pretrain")["result"]

    short, long = mine["bits_per_byte"]["contexts"]
    assert (short["name"], long["name"]) == ("context 64", "context 128")
    assert short["before"]["mean"] == pytest.approx(parents["bits_per_byte"]["model"], rel=1e-6)
    for row in (short, long):
        change = row["difference"]
        assert change["low"] <= change["mean"] <= change["high"]
        assert change["mean"] == pytest.approx(row["after"]["mean"] - row["before"]["mean"])
        assert change["mean"] < 0  # four steps are too few to have learned all
    assert mine["bits_per_byte"]["model"] == long["after"]["mean"]
    (longer,) = mine["bits_per_byte"]["longer"]
    assert longer["name"] == "context 128 instead of 64"
    assert (longer["before"], longer["after"]) == (short["after"], long["after"])
    again = record(whole, "more")["result"]["bits_per_byte"]
    assert [row["name"] for row in again["contexts"]] == ["context 128"]  # mid's, and its own
    assert again["contexts"][0]["before"] == long["after"]
    assert again["longer"] == []
    report = (whole / "report.html").read_text()
    assert "bits per byte, context 128 instead of 64" in report

    _, config = load(whole / "mid" / "model")
    assert (config.max_positions, config.rope_theta) == (2048, 1e6)
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 64)
    assert load(whole / "pretrain" / "model")[1].max_positions == 1024
    assert mine["data"]["digest"] == parents["data"]["digest"]
    assert mine["data"]["held_out_is_unseen"]
    assert mine["data"]["settings"]["held_out"] == 20.0  # the parent's, not the default
    rates = [
        json.loads(line)["lr"] for line in (whole / "mid" / "metrics.jsonl").read_text().split("\n")
        if line
    ]  # fmt: skip
    assert rates == pytest.approx([1e-3, 1e-3, 2e-3 / 3, 1e-3 / 3])


def test_the_measured_before_is_the_parents(grown, tmp_path):
    """Measured by hand with the parent's model at both contexts, its own rotary base."""
    before, recipe = grown
    directory = Path(shutil.copytree(before, tmp_path / "run"))
    finish(recipe, directory)
    model, tokenizer = load_model(directory / "pretrain")
    settings = record(directory, "mid")["result"]["data"]["settings"]
    corpus = midtrain._corpus(settings)
    found = record(directory, "mid")["result"]["bits_per_byte"]
    files, total = [], 0
    for file in corpus.held_out:
        if total < 9000:
            files.append(file)
            total += file.bytes
    assert (len(files), total) == (found["contexts"][0]["difference"]["n"], found["held_out_bytes"])
    other = midtrain.extended(model, 2048, 1e6)
    for row in found["contexts"]:
        context = int(row["name"].split()[1])
        bits = bits_per_byte(model, tokenizer, files, context)
        assert bits.total == pytest.approx(row["before"]["mean"], rel=1e-6)
        turned = bits_per_byte(other, tokenizer, files, context)
        assert turned.total != pytest.approx(row["before"]["mean"], rel=1e-6)


def test_other_text_is_said_to_be_other(grown, tmp_path):
    before, recipe = grown
    directory = Path(shutil.copytree(before, tmp_path / "run"))
    done = run(recipe, directory, "mid.held_out=30.0", "mid.steps=1", "more.steps=1")
    assert done.code == 0, done.err
    assert "the parent may have seen what is held out here" in done.err
    assert not record(directory, "mid")["result"]["data"]["held_out_is_unseen"]
    assert record(directory, "more")["result"]["data"]["settings"]["held_out"] == 30.0
    assert record(directory, "more")["result"]["data"]["held_out_is_unseen"]


def test_where_a_model_comes_from(grown, tmp_path):
    run_dir, _ = grown
    for place in (run_dir / "pretrain", run_dir / "pretrain" / "model"):
        found = midtrain.origin(place)
        assert found is not None
        assert found.row_length == 64
        assert found.settings["held_out"] == 20.0
        assert found.digest == record(run_dir, "pretrain")["result"]["data"]["digest"]
    assert midtrain.origin(tmp_path) is None
    sft = tmp_path / "run" / "sft"
    sft.mkdir(parents=True)
    shutil.copytree(run_dir / "pretrain", tmp_path / "run" / "pretrain")
    text = {"kind": "sft", "config": {"data": "chats"}, "result": {}, "parents": {"pretrain": "x"}}
    (sft / "stage.json").write_text(json.dumps(text))
    assert midtrain.origin(sft) == midtrain.origin(run_dir / "pretrain")
    (sft / "stage.json").write_text("{")
    with pytest.raises(UserError, match=r"stage\.json is broken"):
        midtrain.origin(sft)


def test_a_model_of_unknown_text_is_measured_with_a_warning(grown, tmp_path, ctx: StageContext):
    run_dir, _ = grown
    lonely = Path(shutil.copytree(run_dir / "pretrain" / "model", tmp_path / "lonely"))
    config = midtrain.Config(
        init=lonely, data=run_dir.parent / "recipe" / "text", steps=1, batch_tokens=64,
        row_length=64, eval_bytes=500,
    )  # fmt: skip
    found = midtrain.run(ctx, config)
    assert not found["data"]["held_out_is_unseen"]
    names = [row["name"] for row in found["bits_per_byte"]["contexts"]]
    assert names == ["context 16", "context 64"]
