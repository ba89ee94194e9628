"""Where memory ends: what is given up, in which order, and that the gradient stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from puna.core.errors import UserError
from puna.models.decoder import Decoder
from puna.models.presets import build, preset
from puna.train.fitting import SMALLEST, Ladder
from puna.train.loss import next_token_loss

TOKENS = torch.randint(0, 512, (4, 33), generator=torch.Generator().manual_seed(0))


def gradient(model: Decoder) -> list[torch.Tensor]:
    """Of one batch, by parameter."""
    model.zero_grad()
    hidden = model(TOKENS[:, :-1])
    next_token_loss(model, hidden.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def fails(times: int, done: list[int]) -> Callable[[], str]:
    """Work that finds too little memory so often."""

    def work() -> str:
        done.append(len(done))
        if len(done) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 ...")
        return "done"

    return work


def test_micro_batches_then_recomputing_then_the_host() -> None:
    model, told, done, undone = build(preset("nano"), 0), list[str](), list[int](), list[int]()
    ladder = Ladder(model, told.append)
    halvings = SMALLEST.bit_length() - 1
    assert ladder.fit(fails(halvings + 2, done), lambda: undone.append(1)) == "done"
    assert (ladder.divisor, model.recompute, ladder.offload) == (SMALLEST, True, True)
    assert len(undone) == halvings + 2
    assert len(told) == halvings + 2
    assert "1/2 of" in told[0]
    assert "again" in told[-2]
    assert "host" in told[-1]
    with pytest.raises(UserError, match="does not fit: CUDA out of memory; shorten"):
        ladder.fit(fails(99, []), lambda: None)


def test_other_errors_are_not_of_memory() -> None:
    ladder = Ladder(build(preset("nano"), 0), print)
    with pytest.raises(ZeroDivisionError):
        ladder.fit(lambda: 1 // 0, lambda: None)
    assert ladder.state_dict() == {}


def test_what_was_given_up_stands_in_a_checkpoint() -> None:
    first = Ladder(build(preset("nano"), 0), lambda line: None)
    first.fit(fails(6, []), lambda: None)
    other = build(preset("nano"), 0)
    second = Ladder(other, print)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert other.recompute


@pytest.mark.parametrize("name", ["recompute", "offload"])
def test_the_gradient_is_the_same(name: str) -> None:
    model = build(preset("nano"), 0)
    want = gradient(model)
    ladder = Ladder(model, print)
    model.recompute, ladder.offload = name == "recompute", name == "offload"
    found = ladder.fit(lambda: gradient(model), model.zero_grad)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_what_is_kept_goes_elsewhere_only_when_asked() -> None:
    """PyTorch allows no second hook on a saved tensor, so that shows whether there is one."""
    ladder = Ladder(build(preset("nano"), 0), print)

    def hooked() -> bool:
        square = torch.ones(3, requires_grad=True).square()
        try:
            square.grad_fn._raw_saved_self.register_hooks(lambda x: x, lambda x: x)
        except RuntimeError as error:
            return "already been set" in str(error)
        return False

    assert not ladder.fit(hooked, lambda: None)
    ladder.offload = True
    assert ladder.fit(hooked, lambda: None)


def test_recomputing_keeps_less() -> None:
    model = build(preset("nano"), 0)
    sizes = []
    for model.recompute in (False, True):
        kept = 0

        def pack(x: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(TOKENS)
        sizes.append(kept)
    assert sizes[1] < sizes[0] / 4


def test_a_run_that_found_too_little_memory_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole stage: passes of more than 200 tokens fail; the losses are those of small passes."""
    from puna.core.journal import read
    from puna.run import execute

    text = tmp_path / "text"
    text.mkdir()
    for i in range(30):
        (text / f"{i}.txt").write_text(f"def f{i}(x):\n    return x + {i}\n" * 40)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        "name = 'r'\n[machine]\ndevice = 'cpu'\nthreads = 2\n"
        "[[stage]]\nid = 'pretrain'\nkind = 'pretrain'\n"
        f"data = '{text}'\nsteps = 3\nbatch_tokens = 1024\nrow_length = 128\nvocab = 512\n"
        "with_baselines = false\nsample_every = 0\nmicro_tokens = 1024\n"
    )
    found, gave_up = [], []
    for most, micro in ((200, 1024), (10_000, 256)):
        forward = Decoder.forward

        def scarce(self, ids, *args, most=most, forward=forward, **kwargs):  # type: ignore[no-untyped-def]
            if torch.is_grad_enabled() and ids.numel() > most:
                raise torch.OutOfMemoryError("too little")
            return forward(self, ids, *args, **kwargs)

        divisors: list[int] = []

        def step(self, failed, down=Ladder._step_down, divisors=divisors):  # type: ignore[no-untyped-def]
            down(self, failed)
            divisors.append(self.divisor)

        with monkeypatch.context() as patch:
            patch.setattr(Decoder, "forward", scarce)
            patch.setattr(Ladder, "_step_down", step)
            directory = tmp_path / str(most)
            execute(recipe, directory, [f"pretrain.micro_tokens={micro}"])
        rows = list(read(directory / "pretrain" / "metrics.jsonl"))
        gave_up.append(divisors[-1:])
        found.append([row["loss"] for row in rows])
    assert found[0] == found[1]
    assert gave_up == [[4], []]
