"""Parts of a batch learned from side by side, each by a core of its own.

`figures = Lanes(model, threads).backward(parts, work)`, where `work(part)` returns a loss and what
to keep of it. The operations of a small model are too small to be shared between cores: two threads
a product made a step of `nano` 1.3 times as fast, two lanes 1.8 times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from puna.models.decoder import Decoder

LARGEST = 20_000_000  # parameters: above it products fill the cores
MOST = 8  # lanes: each holds activations, and gradients of all parameters

Part = TypeVar("Part")
Result = TypeVar("Result")


class Lanes:
    """As many lanes as `threads` where a small model learns on a processor, else one."""

    def __init__(self, model: Decoder, threads: int) -> None:
        self.model = model
        size = sum(p.numel() for p in model.parameters())
        small = model.device.type == "cpu" and size <= LARGEST
        self.count = min(threads, MOST) if small else 1

    def even(self, parts: int) -> int:
        """The least number of parts, `parts` or more, that gives every lane as many."""
        return -(-parts // self.count) * self.count

    def backward(
        self, parts: Sequence[Part], work: Callable[[Part], tuple[Tensor, Result]]
    ) -> list[Result]:
        """What `work` keeps of each part, the gradients of all losses added to the model's.

        They are added in the order of `parts`, so several lanes with a thread each give the sum,
        to the bit, that one lane with a thread gives of the same parts.
        """
        if self._alone(parts):
            out = []
            for part in parts:
                loss, kept = work(part)
                loss.backward()  # type: ignore[no-untyped-call]
                out.append(kept)
            return out
        learned = [p for p in self.model.parameters() if p.requires_grad]

        def both(part: Part) -> tuple[tuple[Tensor | None, ...], Result]:
            loss, kept = work(part)
            return torch.autograd.grad(loss, learned, allow_unused=True), kept

        out = []
        for gradients, kept in self._in_order(parts, both):
            for parameter, gradient in zip(learned, gradients, strict=True):
                if gradient is not None:
                    _add(parameter, gradient)
            out.append(kept)
        return out

    def score(self, parts: Sequence[Part], work: Callable[[Part], Tensor]) -> list[Tensor]:
        """What `work` returns of each part, to learn nothing from.

        On a processor it is computed as `backward` would, to the last bit.
        """

        def scored(part: Part) -> Tensor:
            with torch.set_grad_enabled(self.model.device.type == "cpu"):
                return work(part).detach()

        return list(self._in_order(parts, scored))

    def _alone(self, parts: Sequence[Part]) -> bool:
        """Whether one part at a time is worked on, by all threads."""
        return self.count == 1 or len(parts) == 1

    def _in_order(self, parts: Sequence[Part], work: Callable[[Part], Result]) -> Iterator[Result]:
        """Results one by one; at most one more than there are lanes is begun and not yet taken."""
        if self._alone(parts):
            yield from map(work, parts)
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # MKL has one number for all threads

        def alone(part: Part) -> Result:
            torch.set_num_threads(1)  # OpenMP one for each
            return work(part)

        begun: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(self.count, "puna-lane") as pool:
            try:
                for part in parts:
                    if len(begun) > self.count:
                        yield begun.popleft().result()
                    begun.append(pool.submit(alone, part))
                while begun:
                    yield begun.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)


def even_budget(budget: int, total: int, longest: int, even: Callable[[int], int]) -> int:
    """Tokens of a part, at most `budget`, for `even(n)` parts where `n` would do for `total`.

    Pieces, of at most `longest`, that are put into parts in their order need no more parts then.
    """
    parts = max(1, -(-total // budget))
    return budget if even(parts) == parts else min(budget, total // even(parts) + longest)


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad += gradient
