"""Drawing the next token of every row of a batch.

`Drawing([SamplingParams()] * B, device)(logits_BV, u_B)` -> tokens and log-probabilities [B].
Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puna.engine.policy import SamplingParams


class Drawing:
    """Sampling parameters of a batch as tensors; what nobody asked for costs nothing."""

    def __init__(self, params: Sequence[SamplingParams], device: torch.device) -> None:
        self.plain = all(p.temperature == 1 and not cuts(p) for p in params)
        self.greedy = torch.tensor([p.temperature == 0 for p in params], device=device)
        self.all_greedy = all(p.temperature == 0 for p in params)
        heat = [p.temperature or 1.0 for p in params]
        self.temperature = torch.tensor(heat, device=device)[:, None]
        self.cut = any(map(cuts, params))
        self.top_k = torch.tensor([p.top_k for p in params], device=device)
        self.top_p = torch.tensor([p.top_p for p in params], device=device)
        self.min_p = torch.tensor([p.min_p for p in params], device=device)
        self.top = max((p.top_logprobs for p in params), default=0)

    def __call__(self, logits_BV: Tensor, u_B: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B] by inverse CDF of uniforms in [0, 1), and their log-probabilities [B].

        Those are under the distribution drawn from: after temperature and cuts. Greedy rows have
        the one of their temperature 1.
        """
        logits = logits_BV.float()
        if not self.plain:
            logits = logits / self.temperature
            if self.cut:
                logits = self._truncate(logits)
        if self.all_greedy:
            token = logits.argmax(-1)
            return token, logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
        share = torch.softmax(logits, -1)
        cdf = share.cumsum(-1)
        token = torch.searchsorted(cdf, u_B[:, None] * cdf[:, -1:], right=True)[:, 0]
        token = token.clamp_max_(logits.shape[-1] - 1)
        if not self.plain:
            token = torch.where(self.greedy, logits.argmax(-1), token)
        return token, share.gather(1, token[:, None])[:, 0].log_()

    def likeliest(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens of each row and their log-probabilities, as `__call__` has them."""
        logits = logits_BV.float()
        if not self.plain:
            logits = logits / self.temperature
            if self.cut:
                logits = self._truncate(logits)
        found = logits.log_softmax(-1).topk(min(self.top, logits.shape[-1]), -1)
        return found.indices, found.values

    def _truncate(self, logits: Tensor) -> Tensor:
        vocab = logits.shape[-1]
        ranked, order = logits.sort(-1, descending=True)
        share = ranked.softmax(-1)
        before = share.cumsum(-1) - share
        most = torch.where(self.top_k > 0, self.top_k, vocab)[:, None]
        drop = (before >= self.top_p[:, None]) | (torch.arange(vocab, device=logits.device) >= most)
        drop |= share < self.min_p[:, None] * share[:, :1]
        return logits.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), float("-inf"))


def cuts(params: SamplingParams) -> bool:
    """Whether some tokens may not be drawn at all."""
    return bool(params.top_k or params.top_p < 1 or params.min_p)
