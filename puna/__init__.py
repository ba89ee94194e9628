"""Puna raises Llama-style models into agents: `puna.eval(...)` and `puna eval` are one function."""

from typing import Any

__version__ = "0.1.0"
_PUBLIC = {
    "eval": "puna.evals.api",
    "audit": "puna.gym.audit",
    "load_environment": "puna.gym.registry",
    "Environment": "puna.gym.environment",
    "SingleTurn": "puna.gym.environment",
    "Problem": "puna.gym.environment",
    "Task": "puna.gym.task",
    "Scored": "puna.core.outcome",
    "Invalid": "puna.core.outcome",
    "Infra": "puna.core.outcome",
    "Message": "puna.core.messages",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import puna` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'puna' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
