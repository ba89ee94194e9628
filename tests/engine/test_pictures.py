"""Pictures through the engine: prefill with a cache equals the full forward, in every batch."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from puna.core.messages import Image, Message, Text
from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.engine.rendezvous import LocalSampler, Rendezvous
from puna.gym.seat import SamplerSeat
from puna.gym.trajectory import Episode, Trajectory
from puna.models import VisionConfig, build, preset
from puna.models.decoder import Decoder
from puna.text.images import inline, pictures_in
from puna.text.template import render
from puna.text.tokenizer import Tokenizer

pytest.importorskip("PIL")
from PIL import Image as Pillow

EYES = VisionConfig(32, 2, 4, tile_size=8, patch_size=2, adapter_size=24, max_tiles=4)
TOKENIZER = Tokenizer.train(["what is there"], 300, tiling=EYES.tiling)


def picture(seed: int, width: int = 8) -> Image:
    levels = np.random.RandomState(seed).randint(0, 256, (8, width, 3), np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(levels).save(out, "PNG")
    return inline(out.getvalue(), "image/png")


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.set_num_threads(1)
    eyes = replace(EYES, patch_id=TOKENIZER.special("patch"))
    made = build(preset("nano", vocab_size=TOKENIZER.vocab_size, vision=eyes, attention_chunk=16))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for name, parameter in made.named_parameters():
            if parameter.ndim > 1:
                scale = parameter.shape[-1] ** -0.5
                parameter.normal_(0.0, scale if "embed" not in name else 0.1, generator=generator)
    return made.eval()


def request(message: Message, key: str, count: int = 12) -> Request:
    ids = render(TOKENIZER, [message], open_turn=True).ids
    shown = tuple(pictures_in(TOKENIZER, [message], ids))
    return Request(tuple(ids), SamplingParams(count), (key, "agent", 0), shown)


@torch.no_grad()
def logprobs(model: Decoder, prompt: list[int], said: list[int], shown: list) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *said]])
    images = model.look(ids.shape, [(0, p) for p in shown])
    logits = model.logits(model(ids, images=images))[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]


ASK = {
    "one": Message("user", (picture(0), Text("what?"))),
    "tiles": Message("user", (Text("see"), picture(1, 24), Text("what?"))),
    "two": Message("user", (picture(0), picture(2), Text("what?"))),
    "none": Message.user("what?"),
}


def test_sampled_logprobs_equal_the_full_forward(model: Decoder) -> None:
    engine = Engine(model, TOKENIZER, seed=0)
    engine.ignore_stops()
    asked = [request(message, name) for name, message in ASK.items()]
    for one, done in zip(asked, engine.generate(asked), strict=True):
        prompt, said = list(one.prompt_ids), list(done.ids)
        expected = logprobs(model, prompt, said, list(one.pictures))
        found = torch.tensor(done.logprobs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        if one.pictures:
            blind = logprobs(model, prompt, said, [])
            assert float((blind - found).abs().max()) > 1e-3


def test_an_answer_depends_on_its_own_picture_and_on_no_other_row(model: Decoder) -> None:
    engine = Engine(model, TOKENIZER, seed=0)
    engine.ignore_stops()
    asked = [
        request(Message("user", (picture(i), Text("what?"))), f"row {i}", 24) for i in range(6)
    ]
    assert len({r.prompt_ids for r in asked}) == 1
    together = engine.generate(asked)
    alone = [engine.generate([one])[0] for one in asked]
    assert [t.ids for t in together] == [a.ids for a in alone]
    same_key = [replace(one, key=("k",)) for one in asked]
    assert len({done.ids for done in engine.generate(same_key)}) > 1


def test_sampled_patch_tokens_are_no_pictures(model: Decoder) -> None:
    patch = TOKENIZER.special("patch")
    one = request(ASK["one"], "a")
    odd = replace(one, prompt_ids=(*one.prompt_ids, patch, patch))
    (done,) = Engine(model, TOKENIZER, seed=0).generate([odd])
    expected = logprobs(model, list(odd.prompt_ids), list(done.ids), list(odd.pictures))
    torch.testing.assert_close(torch.tensor(done.logprobs), expected, atol=1e-5, rtol=0)


def test_a_conversation_keeps_its_pictures_and_its_record(model: Decoder) -> None:
    sampler = LocalSampler(Engine(model, TOKENIZER, seed=0), Rendezvous())
    seat = SamplerSeat(sampler, SamplingParams(6), ("e", "agent"))
    first, second = ASK["tiles"], Message("user", (Text("and"), picture(5), Text("?")))

    async def talk() -> list[Message]:
        said = await seat.reply([first])
        return [first, said, second, await seat.reply([first, said, second])]

    messages = asyncio.run(talk())
    (branch,) = seat.branches
    assert [p.part for p in branch.pictures] == [picture(1, 24), picture(5)]
    patches = [i for p in branch.pictures for i in p.patches(EYES.tiling)]
    assert all(branch.ids[i] == TOKENIZER.special("patch") for i in patches)
    assert len(patches) == 5 * EYES.tiling.tokens
    said = max(i for i, sampled in enumerate(branch.mask) if not sampled) + 1
    expected = logprobs(model, branch.ids[:said], branch.ids[said:], branch.pictures)
    found = torch.tensor(branch.logprobs[said:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    speakers = ("env", "agent", "env", "agent")
    episode = Episode("t", tuple(zip(speakers, messages, strict=True)))
    record = Trajectory({}, "t", "train", 0, 0, episode, {"agent": [branch]}).to_json()
    again = Trajectory.from_json(record)
    assert again.branches["agent"][0].pictures == branch.pictures
