"""The encoder against peers and by hand: ALiBi, attention, padding, both objectives, training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from puna.core.errors import UserError
from puna.core.rng import stream
from puna.papers.user_model.method import (
    MASK,
    PAD,
    SPECIAL,
    Block,
    Encoder,
    Plan,
    Shape,
    alibi_slopes,
    mask_tokens,
    pad,
    same_user_loss,
    symmetric_alibi,
    train,
    two_segments,
    untrained,
)

SHAPE = Shape(vocab=12, width=16, layers=2, heads=4)
PLAN = Plan(steps=30, batch=8, length=16, shortest=4, gap=4, learning_rate=3e-3)


def louder(encoder: Encoder) -> Encoder:
    """With larger token vectors, so that attention is far from even."""
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(1.5)
    return encoder


def test_slopes_by_hand_and_as_bloom_has_them() -> None:
    assert alibi_slopes(4).tolist() == [2**-2, 2**-4, 2**-6, 2**-8]
    assert alibi_slopes(6).tolist() == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    for heads in range(1, 17):
        peer = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
        torch.testing.assert_close(alibi_slopes(heads), peer, rtol=1e-6, atol=0)


def test_the_bias_is_the_distance_to_either_side() -> None:
    assert symmetric_alibi(1, 3)[0].tolist() == [
        [0, -(2**-8), -2 * 2**-8],
        [-(2**-8), 0, -(2**-8)],
        [-2 * 2**-8, -(2**-8), 0],
    ]


def test_a_block_is_the_encoder_layer_of_pytorch() -> None:
    torch.manual_seed(0)
    block = Block(SHAPE)
    peer = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True)
    names = {
        "self_attn.in_proj_weight": block.qkv.weight, "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj.weight": block.out.weight, "self_attn.out_proj.bias": block.out.bias,
        "linear1.weight": block.up.weight, "linear1.bias": block.up.bias,
        "linear2.weight": block.down.weight, "linear2.bias": block.down.bias,
        "norm1.weight": block.attention_norm.weight, "norm1.bias": block.attention_norm.bias,
        "norm2.weight": block.norm.weight, "norm2.bias": block.norm.bias,
    }  # fmt: skip
    peer.load_state_dict(names)
    x, bias = torch.randn(2, 7, 16), 10 * symmetric_alibi(4, 7)
    theirs = peer(x, src_mask=bias.repeat(2, 1, 1))
    torch.testing.assert_close(block(x, bias), theirs, rtol=1e-5, atol=1e-5)
    assert (block(x, torch.zeros(4, 7, 7)) - theirs).abs().max() > 1e-2


def test_a_window_has_one_vector_whatever_it_is_padded_with() -> None:
    encoder = louder(untrained(SHAPE, 0))
    short, long = np.array([1, 5, 2]), np.arange(11)
    together = encoder.embed([short, long])
    np.testing.assert_allclose(together[0], encoder.embed([short])[0], atol=2e-6)
    tokens = pad([short, long])
    everything = encoder(tokens).mean(1)[0].detach().numpy()
    assert np.abs(together[0] - everything).max() > 1e-2


def test_with_alibi_a_window_and_its_reverse_are_one() -> None:
    window = stream(0, "window").integers(0, 12, 20)
    for shape, same in ((SHAPE, True), (replace(SHAPE, positions="learned"), False)):
        encoder = louder(untrained(shape, 0))
        forward, backward = encoder.embed([window, window[::-1]])
        gap = np.abs(forward - backward).max()
        assert gap < 1e-5 if same else gap > 1e-3
    shuffled = np.sort(window)  # order as such does matter
    forward, other = louder(untrained(SHAPE, 0)).embed([window, shuffled])
    assert np.abs(forward - other).max() > 1e-3


def test_many_windows_are_embedded_as_each_is_alone() -> None:
    random, encoder = stream(1, "windows"), untrained(SHAPE, 0)
    windows = [random.integers(0, 12, n) for n in random.integers(1, 300, 150)]
    together = encoder.embed(windows)
    for i in (0, 70, 149):
        np.testing.assert_allclose(together[i], encoder.embed([windows[i]])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("windows", "line"),
    [
        ([[1], []], "window 1 has no events; leave it out"),
        ([[1, 12]], "window 0: event 12 is not one of 0 to 11"),
        ([[-1]], "window 0: event -1 is not one of 0 to 11"),
        ([[0.5]], "window 0: event 0.5 is not one of 0 to 11"),
        ([[float("nan")]], "window 0: event nan is not one of 0 to 11"),
    ],
)
def test_a_bad_window_is_one_line(windows: list[list[float]], line: str) -> None:
    with pytest.raises(UserError) as caught:
        untrained(SHAPE, 0).embed(windows)
    assert str(caught.value) == line


def test_learned_positions_have_an_end() -> None:
    encoder = untrained(replace(SHAPE, positions="learned", max_length=8), 0)
    with pytest.raises(UserError, match="window 0 has 9 events; give at most 8"):
        encoder.embed([[1] * 9])


def test_masking_hides_a_share_and_no_padding() -> None:
    tokens = torch.from_numpy(stream(0, "t").integers(SPECIAL, SPECIAL + 50, (200, 100)))
    tokens[:, 80:] = PAD
    inputs, chosen = mask_tokens(tokens, 50, 0.15, stream(1, "mask"))
    assert not chosen[:, 80:].any()
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    assert chosen[:, :80].float().mean().item() == pytest.approx(0.15, abs=0.01)
    hidden, kept = inputs[chosen] == MASK, inputs[chosen] == tokens[chosen]
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.03)
    # A random event is by chance the same one time in fifty.
    assert kept.float().mean().item() == pytest.approx(0.1 + 0.1 / 50, abs=0.03)


def test_the_same_user_loss_by_hand() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    second = torch.tensor([[1.0, 0.0], [5.0, 5.0]])
    half = math.sqrt(0.5)
    by_hand = [
        -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(half / 0.5))),
        -math.log(math.exp(half / 0.5) / (math.exp(0) + math.exp(half / 0.5))),
    ]
    found = same_user_loss(first, second, 0.5).item()
    assert found == pytest.approx(sum(by_hand) / 2, abs=1e-6)
    assert same_user_loss(second, first, 0.5).item() != pytest.approx(found, abs=1e-3)


def test_a_user_alone_has_nobody_to_be_told_from() -> None:
    z = torch.randn(1, 4, requires_grad=True)
    loss = same_user_loss(z, torch.randn(1, 4), 0.07)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert z.grad is not None
    assert not z.grad.any()


@given(st.integers(12, 200), st.integers(0, 10_000))
def test_segments_keep_their_distance(events: int, seed: int) -> None:
    spans = two_segments(events, PLAN, stream(seed, "segments"))
    (a, b), (c, d) = sorted(spans)
    assert 0 <= a < b <= d <= events
    assert c - b >= PLAN.gap
    assert all(PLAN.shortest <= stop - start <= PLAN.length for start, stop in spans)


def test_segments_reach_every_part_of_a_history() -> None:
    seen = np.zeros(60, dtype=bool)
    for seed in range(300):
        for start, stop in two_segments(60, PLAN, stream(seed, "reach")):
            seen[start:stop] = True
    assert seen.all()


def pairs_log(users: int = 40) -> list[np.ndarray]:
    """Each user has two events of its own that follow each other."""
    random = stream(0, "pairs")
    out = []
    for _ in range(users):
        a, b = random.choice(12, 2, replace=False)
        out.append(np.array([a, b] * 40))
    return out


def hidden_loss(encoder: Encoder, histories: list[np.ndarray]) -> float:
    """Cross entropy of hidden events, every seventh one."""
    tokens = pad([h[:28] for h in histories])
    chosen = torch.zeros_like(tokens, dtype=torch.bool)
    chosen[:, 3::7] = True
    with torch.no_grad():
        x: Tensor = encoder(tokens.masked_fill(chosen, MASK))
        return F.cross_entropy(encoder.event_logits(x[chosen]), tokens[chosen] - SPECIAL).item()


def test_training_learns_what_is_hidden_and_repeats_itself() -> None:
    log = pairs_log()
    encoder = train(log, SHAPE, replace(PLAN, steps=500, contrastive=False), seed=0)
    assert hidden_loss(untrained(SHAPE, 0), log) > math.log(12) - 0.3
    assert hidden_loss(encoder, log) < 1.2
    again, other = train(log, SHAPE, PLAN, seed=3), train(log, SHAPE, PLAN, seed=4)
    windows = [h[:10] for h in log]
    assert np.array_equal(again.embed(windows), train(log, SHAPE, PLAN, seed=3).embed(windows))
    assert np.abs(again.embed(windows) - other.embed(windows)).max() > 0.1


def test_the_same_user_objective_tells_users_apart() -> None:
    log = pairs_log()

    def loss(encoder: Encoder) -> float:
        ways = [pad([h[start : start + 8] for h in log]) for start in (0, 40)]
        with torch.no_grad():
            z = [encoder.project(encoder.pooled(encoder(tokens), tokens)) for tokens in ways]
        return same_user_loss(z[0], z[1], PLAN.temperature).item()

    with_it = train(log, SHAPE, replace(PLAN, steps=150), 0)
    without = train(log, SHAPE, replace(PLAN, steps=150, contrastive=False), 0)
    assert loss(with_it) < 0.5 * loss(without)


def test_too_short_a_log_is_one_line() -> None:
    with pytest.raises(UserError, match="1 users have 12 events or more; training needs 2"):
        train([np.arange(12), np.arange(11)], SHAPE, PLAN, 0)
