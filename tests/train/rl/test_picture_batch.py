"""Rows with pictures in RL: shared prefixes give each row the gradient it has alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from puna.core.messages import Message, Text
from puna.core.outcome import Scored
from puna.gym.trajectory import Branch
from puna.models import VisionConfig, build, preset
from puna.models.decoder import Decoder
from puna.text.images import inline, pictures_in
from puna.text.template import render
from puna.text.tokenizer import Tokenizer
from puna.train.rl.batch import micro_batches
from puna.train.rl.rows import Row

pytest.importorskip("PIL")
EYES = VisionConfig(16, 1, 2, tile_size=8, patch_size=2, adapter_size=8, max_tiles=1)
TOKENIZER = Tokenizer.train(["what is there"], 300, tiling=EYES.tiling)


def ppm(seed: int) -> bytes:
    return b"P6 8 8 255\n" + np.random.RandomState(seed).bytes(8 * 8 * 3)


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.set_num_threads(1)
    eyes = replace(EYES, patch_id=TOKENIZER.special("patch"))
    return build(preset("nano", vocab_size=TOKENIZER.vocab_size, vision=eyes), seed=1)


def row(image: int, said: list[int]) -> Row:
    message = Message("user", (inline(ppm(image), "image/x-portable-pixmap"), Text("what?")))
    ids = render(TOKENIZER, [message], open_turn=True).ids
    branch = Branch(pictures=pictures_in(TOKENIZER, [message], ids))
    branch.extend_prompt(list(ids))
    branch.extend_sampled(tuple(said), (0.0,) * len(said), 0)
    return Row("agent", f"group {image}", "", Scored(1.0, True), 0, branch, 0, 1.0)


def test_shared_rows_equal_separate_ones(model: Decoder) -> None:
    rows = [row(image, [40 + i, 50, 60 + image]) for i in range(3) for image in range(2)]

    def gradients(parts: list[list[Row]]) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for part in parts:
            for batch in micro_batches(part, 10_000, False, model.device):
                loss = (batch.logprobs(model) * batch.targets_M).sum()
                loss.backward()
                total += float(loss.detach())
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return total, found

    (batch,) = micro_batches(rows, 10_000, False, model.device)
    prompt = len(rows[0].branch.ids) - 3
    nodes = batch.tree.ids_1N.shape[1]
    assert 2 * prompt - rows[0].branch.pictures[0].at <= nodes < 2 * prompt + 6 * 3
    together, shared = gradients([rows])
    apart, separate = gradients([[r] for r in rows])
    assert together == pytest.approx(apart, rel=1e-5)
    assert any(name.startswith("vision.") and bool(g.abs().max() > 0) for name, g in shared.items())
    for name, gradient in separate.items():
        torch.testing.assert_close(shared[name], gradient, atol=2e-3, rtol=1e-3, msg=name)


def test_the_picture_matters_and_rows_keep_their_own(model: Decoder) -> None:
    def logprobs(rows: list[Row]) -> torch.Tensor:
        (batch,) = micro_batches(rows, 10_000, False, model.device)
        with torch.no_grad():
            return batch.logprobs(model)

    both = [row(0, [40, 50]), row(1, [40, 50])]
    alone = torch.cat([logprobs([r]) for r in both])
    torch.testing.assert_close(logprobs(both).sort().values, alone.sort().values)
    assert float((alone[:2] - alone[2:]).abs().max()) > 1e-4
