"""Optimisers and the learning-rate schedule, as functions of the step so that resuming is exact.

`make_optimizer(model, OptimConfig(lr=1e-3))`; `learning_rate(config, step, steps)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


def require(holds: bool, config: object, name: str, wanted: str) -> None:
    """Raises ValueError naming a setting and what it must be, unless it holds."""
    if not holds:
        raise ValueError(f"{name} is {getattr(config, name)}, must be {wanted}")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, warm-up over `warmup` steps, then constant or falling to `final` times the peak.

    `kind = "muon"` updates the matrices of the layers by Muon, at the same rate.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    warmup: int = 20
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    final: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for a rate that cannot train."""
        if not 0 < self.lr < 10:
            raise ValueError(f"lr is {self.lr}, must be between 0 and 10")
        for name in ("warmup", "weight_decay", "clip"):
            require(getattr(self, name) >= 0, self, name, "0 or more")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, self, name, "at least 0, below 1")
        require(self.eps > 0, self, "eps", "above 0")
        require(0 <= self.final <= 1, self, "final", "between 0 and 1")


def learning_rate(config: OptimConfig, step: float, steps: int) -> float:
    """The rate for 0-based `step` of `steps`; past the last one it stays."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.final + (1 - config.final) * left)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters; weight decay on matrices only (norm gains are left alone).

    With Muon the matrices of the layers are its own; embedding, head and router stay AdamW's.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    inner = {n for n, p in named if p.ndim >= 2 and _within(n)} if config.kind == "muon" else set()
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if n in inner], "muon": True},
        {"params": [p for n, p in named if p.ndim >= 2 and n not in inner]},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [{"weight_decay": config.weight_decay} | g for g in groups if g["params"]]
    how: dict[str, Any] = {
        "lr": config.lr,
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
    }
    if config.kind == "muon":
        from puna.train.muon import Muon

        return Muon(groups, **how)
    return torch.optim.AdamW(groups, fused=True, **how)


def _within(name: str) -> bool:
    """Whether a matrix maps between hidden states: those are what Muon is for."""
    return name.startswith("layers.") and ".router." not in name


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: OptimConfig, lr: float
) -> float:
    """Clip, step, clear; returns the gradient norm before clipping."""
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf))
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state as named tensors, for safetensors."""
    names: dict[torch.Tensor, str] = {p: n for n, p in model.named_parameters()}
    out: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            out[f"{names[parameter]}:{key}"] = torch.as_tensor(value).contiguous()
    return out


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Any]
) -> None:
    """The inverse of `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter, key = name.rsplit(":", 1)
        optimizer.state[parameters[parameter]][key] = value.clone()
