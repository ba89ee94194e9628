"""SFT on rows with images: the gradient is each conversation's own; rows come from files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from puna.core.errors import UserError
from puna.core.messages import Message, Text
from puna.envs.scenes.drawing import Thing, draw, png
from puna.models import VisionConfig, build, preset
from puna.models.decoder import Decoder
from puna.text.images import images_of, inline, pictures_in
from puna.text.template import render
from puna.text.tokenizer import Tokenizer
from puna.train import sft
from puna.train.data import Chat, read_messages
from puna.train.loop import Trainer
from puna.train.preferences import read_preferences

pytest.importorskip("PIL")
EYES = VisionConfig(16, 1, 2, tile_size=32, patch_size=8, adapter_size=16, max_tiles=2)
TOKENIZER = Tokenizer.train(["what is there"], 300, tiling=EYES.tiling)


def picture(colour: str, place: int) -> bytes:
    return png(draw([Thing(colour, "disc", place)], 0))


def chat(*colours: str) -> Chat:
    shown = [inline(picture(c, i), "image/png") for i, c in enumerate(colours)]
    asked = Message("user", (*shown, Text("what?")))
    return Chat((asked, Message.assistant(" ".join(colours) or "nothing")))


CHATS = [chat("red"), chat(), chat("blue"), chat("red", "green"), chat("white")]


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.set_num_threads(1)
    eyes = replace(EYES, patch_id=TOKENIZER.special("patch"))
    return build(preset("nano", vocab_size=TOKENIZER.vocab_size, vision=eyes), seed=2)


def alone(model: Decoder, row: Chat, seen: bool = True) -> tuple[float, int]:
    """The summed loss of one conversation, computed by hand, and its tokens."""
    rendered = render(TOKENIZER, row.messages)
    ids = torch.tensor([rendered.ids])
    shown = pictures_in(TOKENIZER, row.messages, rendered.ids) if seen else []
    with torch.no_grad():
        images = model.look(ids.shape, [(0, p) for p in shown])
        logits = model.logits(model(ids, images=images))[0, :-1]
    learn = torch.tensor(rendered.mask[1:])
    picked = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0][learn]
    return -float(picked.sum()), int(learn.sum())


def test_the_loss_is_that_of_each_conversation_with_its_pictures(ctx, model: Decoder) -> None:
    config = sft.Config(batch_tokens=10_000, row_length=64, micro_tokens=64)
    packed, left_out = sft._pack(CHATS, TOKENIZER, 64)
    assert left_out == 0
    assert len(packed.ids_NT) < len(CHATS)  # some share a row, so places are moved
    trainer = Trainer(ctx, model, TOKENIZER, config.optim, 9, 9)
    loop = sft._Loop(ctx, config, None, trainer, packed)
    loop.rows = len(packed.ids_NT)
    found = loop.backward(0)["loss"]
    sums = [alone(model, row) for row in CHATS]
    expected = sum(s for s, _ in sums) / sum(n for _, n in sums)
    assert found == pytest.approx(expected, rel=1e-5)
    blind = sum(alone(model, row, seen=False)[0] for row in CHATS) / sum(n for _, n in sums)
    assert abs(blind - expected) > 1e-3 * expected
    moved = [n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert "vision.cls" in moved
    assert "vision.project.weight" in moved


def test_rows_name_images_beside_their_file(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture("red", 3))
    url = inline(picture("blue", 4), "image/png").ref
    rows = [
        {"messages": [
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": where}},
                {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": "a disc"},
        ]}
        for where in ("pictures/a.png", url)
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    first, second = (next(images_of(c.messages)) for c in read_messages(path))
    assert first.ref == str(tmp_path / "pictures" / "a.png")
    assert len(first.sha256) == 64
    assert second.ref == url
    rows[1]["messages"][0]["content"][0]["image_url"]["url"] = "pictures/absent.png"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(UserError, match=r"rows\.jsonl line 2: cannot read the image"):
        read_messages(path)


def test_a_model_of_text_refuses_rows_with_images() -> None:
    with pytest.raises(UserError, match="conversation 0 holds an image, and this model reads none"):
        sft._pack(CHATS, Tokenizer.train(["what"], 300), 64)


def test_preferences_refuse_images(tmp_path: Path) -> None:
    row = {
        "prompt": [CHATS[0].messages[0].to_openai()],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="images in preferences are not supported"):
        read_preferences(path)


def test_pictures_differ_for_the_model(model: Decoder) -> None:
    losses = [alone(model, Chat((c.messages[0], CHATS[0].messages[1])))[0] for c in CHATS[::2]]
    assert np.ptp(losses) > 1e-4
