"""Stages on pictures, end to end: what is seen matters, eyes learn, a killed run ends the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import finish, killed, metrics, write_recipe

from puna.core.messages import Image, Message, Text
from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.envs.scenes.drawing import COLOURS, Thing, draw, png
from puna.models.decoder import Decoder
from puna.models.presets import build, preset
from puna.text.images import Picture, inline, pictures_in
from puna.text.template import render
from puna.text.tokenizer import Tokenizer
from puna.train.checkpoint import load_model

pytest.importorskip("PIL")

# The tiny recipe on pictures: scenes to learn from, sights to be paid for.
ON_PICTURES = (
    ('name = "tiny"', 'name = "eyes"'),
    ("vocab = 300\nsteps = 4", 'vocab = 400\nvocab_envs = ["scenes"]\nsteps = 2'),
    # No checkpoint in pretrain: the crash points below count those of sft.
    ("eval_bytes = 2000\nsample_every = 0\nsave_every = 2", "eval_bytes = 500\nsample_every = 0"),
    ('preset = "nano"', 'preset = "nano-vision"\ninitializer_range = 0.2'),
    (
        'env = "arithmetic"\ndemos = 24\nsteps = 6',
        'env = { id = "scenes", things = 2 }\ndemos = 12\nsteps = 3',
    ),
    (
        "row_length = 64\neval_every = 3\neval_tasks = 4",
        "row_length = 128\neval_every = 3\neval_tasks = 2",
    ),
    ("brief.py", "sights.py"),
    ("steps = 4\nprompts", "steps = 3\nprompts"),
    *[("save_every = 2\noptim = { lr = 2e-3", "save_every = 1\noptim = { lr = 5e-3")] * 2,
    ('from = ["pretrain", "sft", "rl"]', 'from = ["sft", "rl"]'),
    (
        'envs = ["arithmetic"]\nn = 16',
        'envs = [{ id = "scenes", things = 2 }, { id = "scenes", things = 2, blind = true }]\n'
        "n = 6",
    ),
)

# The pictures of scenes; a model this small answers none, so whatever it says is paid by length.
SIGHTS = '''
from puna.core.outcome import Scored
from puna.envs.scenes.env import Scenes


class Sights(Scenes):
    """Scenes whose every answer is scored by its length, so that any model gets a signal."""

    name = "sights"

    def judge(self, episodes, hidden, ctx):
        return [{"agent": Scored(1 / (1 + len(e.said().encode())), False)} for e in episodes]
'''


def recipe(directory: Path) -> Path:
    path = write_recipe(directory, *ON_PICTURES)
    (directory / "sights.py").write_text(SIGHTS)
    return path


Whole = tuple[Path, Path, dict[str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The recipe, the run of it that nothing stopped, and the digests of its weights."""
    where = tmp_path_factory.mktemp("eyes")
    path = recipe(where / "recipe")
    return path, where / "run", finish(path, where / "run")


def eyes(run: Path, stage: str) -> dict[str, torch.Tensor]:
    tensors = load_file(run / stage / "model" / "model.safetensors")
    return {n: t for n, t in tensors.items() if n.startswith(("vision_model", "multi_modal"))}


def test_text_leaves_the_eyes_alone_and_pictures_teach_all_of_them(whole: Whole) -> None:
    _, run, _ = whole
    start, _ = load_model(run / "pretrain")
    fresh = build(start.config, seed=3)
    assert fresh.vision is not None
    assert start.vision is not None
    for ours, before in zip(start.vision.parameters(), fresh.vision.parameters(), strict=True):
        assert torch.equal(ours, before)
    assert not torch.equal(start.embed, fresh.embed)
    for earlier, later in (("pretrain", "sft"), ("sft", "rl")):
        before, after = eyes(run, earlier), eyes(run, later)
        still = [n for n in before if torch.equal(before[n], after[n])]
        assert len(before) > 30
        assert not still, (later, still)


def test_the_first_loss_is_another_without_the_pictures(whole: Whole, tmp_path: Path) -> None:
    """The same rows and weights, empty pictures: only what is seen can differ."""
    path, run, weights = whole
    others = finish(path, tmp_path / "run", "sft.env.blind=true")
    blind, seeing = metrics(tmp_path / "run", "sft")[1], metrics(run, "sft")[1]
    assert others["pretrain"] == weights["pretrain"]
    assert others["sft"] != weights["sft"]
    assert blind["tokens"] == seeing["tokens"]
    assert abs(blind["loss"] - seeing["loss"]) > 1e-4 * seeing["loss"]


def test_the_sampler_of_rl_sees_what_its_trainer_sees(whole: Whole) -> None:
    gaps = [figures["logprob_gap"] for figures in metrics(whole[1], "rl").values()]
    assert len(gaps) == 3
    assert max(gaps) < 1e-5
    model, tokenizer = load_model(whole[1] / "rl")
    seen, blind = (answer(model, tokenizer, shown(*c)) for c in (("red", "blue"), ()))
    # What a sampler without eyes would be off by.
    assert float((seen - blind).abs().max()) > 1e-3


def test_eval_says_what_the_model_says_of_each_picture(whole: Whole) -> None:
    """Its answers, once more, by full forward passes over what the journal shows."""
    run = whole[1]
    for score in json.loads((run / "eval" / "stage.json").read_text())["result"]["scores"]:
        assert (score["score"]["n_scored"], score["score"]["n_infra"]) == (6, 0)
    model, tokenizer = load_model(run / "rl")
    lines = (run / "eval" / "episodes-rl-scenes.jsonl").read_text().splitlines()
    told = [json.loads(line)["transcripts"][0] for line in lines]
    assert len({json.dumps(asked["parts"][0]) for asked, _ in told}) == 6  # six pictures
    for asked, answered in told:
        picture, question = asked["parts"]
        image = Image(picture["sha256"], picture["mime"], picture["ref"])
        ids, pictures = ask(tokenizer, [image], question["text"])
        said: list[int] = []
        for _ in range(4):
            said.append(int(logprobs(model, [*ids, *said], pictures).argmax()))
        assert tokenizer.decode(said) == answered["parts"][0]["text"]


def shown(*colours: str) -> list[Image]:
    things = [Thing(colour, "square", place) for place, colour in enumerate(colours)]
    return [inline(png(draw(things, 0)), "image/png")]


def ask(
    tokenizer: Tokenizer, images: list[Image], question: str = "What is top left?"
) -> tuple[list[int], list[Picture]]:
    message = Message("user", (*images, Text(question)))
    ids = render(tokenizer, [message], open_turn=True).ids
    return ids, pictures_in(tokenizer, [message], ids)


@torch.no_grad()
def logprobs(model: Decoder, ids: list[int], pictures: list[Picture]) -> torch.Tensor:
    """Of the next token [V]."""
    seen = model.look((1, len(ids)), [(0, p) for p in pictures])
    return model.logits(model(torch.tensor([ids]), images=seen))[0, -1].log_softmax(-1)


def answer(model: Decoder, tokenizer: Tokenizer, images: list[Image]) -> torch.Tensor:
    return logprobs(model, *ask(tokenizer, images))


def test_trained_models_tell_pictures_apart(whole: Whole) -> None:
    for stage in ("sft", "rl"):
        model, tokenizer = load_model(whole[1] / stage)
        found = [answer(model, tokenizer, shown(colour)) for colour in COLOURS]
        for i, one in enumerate(found):
            for other in found[:i]:
                assert float((one - other).abs().max()) > 1e-4, stage


def test_killed_it_ends_with_the_same_weights(whole: Whole, tmp_path: Path) -> None:
    path, _, weights = whole
    run = tmp_path / "run"
    killed(path, run, "checkpoint.renamed:2")
    assert [p.name for p in (run / "sft" / "checkpoints").iterdir()] == ["step-00000001"]
    killed(path, run, "metrics.appended:4")  # figures ahead of the weights
    assert sorted(metrics(run, "rl")) == [1, 2]
    assert not (run / "rl" / "stage.json").exists()
    assert finish(path, run) == weights
    assert {"pretrain", "sft", "rl"} <= weights.keys()


def test_48_pictures_stand_in_one_conversation() -> None:
    """All are read, each in its place: the engine agrees with the forward pass, and the last one,
    and the first, change what is said.
    """
    tokenizer = Tokenizer.train(
        ["What is top left?"], 300, tiling=preset("nano-vision").vision.tiling
    )
    shape = preset("nano-vision", vocab_size=tokenizer.vocab_size, initializer_range=0.2)
    patch = tokenizer.special("patch")
    assert shape.vision is not None
    model = build(replace(shape, vision=replace(shape.vision, patch_id=patch)), seed=1).eval()
    colours = list(COLOURS)
    many = [shown(colours[i % 6], colours[i // 6 % 6])[0] for i in range(48)]
    ids, pictures = ask(tokenizer, many)
    assert len(pictures) == 48
    assert ids.count(patch) == 48 * model.config.vision.tiling.tokens
    asked = Request(tuple(ids), SamplingParams(3), ("many",), tuple(pictures))
    (done,) = Engine(model, tokenizer, seed=0).generate([asked])
    expected = answer(model, tokenizer, many)
    assert done.logprobs[0] == pytest.approx(float(expected[done.ids[0]]), abs=1e-5)
    for place in (0, 47):
        others = [*many]
        others[place] = shown("white", "white")[0]
        assert float((answer(model, tokenizer, others) - expected).abs().max()) > 1e-4, place
