"""Threads chosen once for a process: OpenMP pools that spin against each other cost 20 to 50 times.

`set_threads(2)` before the first tensor operation; `default_threads()` counts usable cores.
"""

from __future__ import annotations

import ctypes
import os

# Read by OpenMP when torch is first imported, so before that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def default_threads() -> int:
    """The cores this process may run on (affinity respected), at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(16, len(os.sched_getaffinity(0)))
    return min(16, os.cpu_count() or 1)


def set_threads(count: int) -> int:
    """Use `count` threads for tensor operations (0: one per core); waiting threads sleep, not spin.

    Import this module before torch is imported.
    """
    count = count or default_threads()
    import torch

    torch.set_num_threads(count)
    return count


def keep_freed_memory() -> None:
    """Have the C library keep what tensors free, up to 32 MB each, for the next ones.

    It gives pages back otherwise and has them filled with zeros again: a tenth of a small model's
    step. Nothing happens where the library is not glibc.
    """
    try:
        tune = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    never_trim, mapped_from = (-1, 2**31 - 1), (-3, 32 << 20)  # the most that glibc takes
    for option, value in (never_trim, mapped_from):
        tune(option, value)
