"""What a stage gives up where memory ends: one thing after the other, and it says so.

`ladder.fit(work, undo)` runs `work` again after each step down: micro-batches of half the tokens,
then activations computed again on the way back, then activations kept in the host's memory.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from puna.core.errors import UserError
from puna.models.decoder import Decoder

SMALLEST = 32  # parts of the micro-batch asked for, before anything is computed again

Result = TypeVar("Result")


class Ladder:
    """Where a stage stands: `divisor` of its micro-batches, `recompute`, `offload`.

    Results change in last bits with the micro-batch, so this stands in the checkpoint, and a
    resumed stage goes on where it was.
    """

    def __init__(self, model: Decoder, tell: Callable[[str], None]) -> None:
        self.model, self.tell = model, tell
        self.divisor, self.offload = 1, False

    def state_dict(self) -> dict[str, Any]:
        """As JSON; empty where nothing was given up."""
        found = {"divisor": self.divisor, "recompute": self.model.recompute}
        return found | {"offload": self.offload} if self.divisor > 1 else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        if state:
            self.divisor, self.offload = state["divisor"], state["offload"]
            self.model.recompute = state["recompute"]

    def fit(self, work: Callable[[], Result], undo: Callable[[], None]) -> Result:
        """What `work` returns, with as much given up as it takes; `undo` clears a failed try.

        Raises UserError where it fits in no way.
        """
        while True:
            try:
                with self._kept_elsewhere():
                    return work()
            except torch.OutOfMemoryError as error:
                failed = str(error).partition(". ")[0]
            undo()
            gc.collect()
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            self._step_down(failed)

    def _step_down(self, failed: str) -> None:
        if self.divisor < SMALLEST:
            self.divisor *= 2
            self.tell(f"out of memory: micro-batches of 1/{self.divisor} of the tokens from now on")
        elif not self.model.recompute:
            self.model.recompute = True
            self.tell("out of memory: activations are computed again on the way back from now on")
        elif not self.offload:
            self.offload = True
            self.tell("out of memory: activations are kept in the host's memory from now on")
        else:
            fix = "shorten its rows, train adapters (lora), or take a smaller model"
            raise UserError(f"a step does not fit: {failed}", fix)

    def _kept_elsewhere(self) -> contextlib.AbstractContextManager[Any]:
        if not self.offload:
            return contextlib.nullcontext()
        pinned = self.model.device.type == "cuda"
        return torch.autograd.graph.save_on_cpu(pin_memory=pinned)
