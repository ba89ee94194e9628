"""What a run runs on: device, precision and threads, chosen once; the versions behind its bits.

`choose_machine(MachineConfig())` -> `Machine("cpu", "float32", 2, 2)`.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from puna.core.errors import UserError
from puna.core.stage import Machine, Weights
from puna.core.threads import default_threads


@dataclass(frozen=True)
class MachineConfig:
    """The `[machine]` table: what "auto" and 0 leave to Puna, chosen once and stored.

    `jobs` stages that do not depend on each other run beside each other, each with `threads`
    threads (0: as many as fill the cores); results do not depend on it, so it is not stored.
    """

    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    workers: int = 2
    jobs: int = 0
    keep_checkpoints: int = 2
    weights: Weights = "auto"

    def __post_init__(self) -> None:
        """Raises ValueError for a count below its least."""
        leasts = (("threads", 0), ("workers", 1), ("jobs", 0), ("keep_checkpoints", 1))
        for name, least in leasts:
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")


def choose_machine(wanted: MachineConfig) -> Machine:
    """Device, dtype and threads for this machine.

    bf16 only where the processor has matrix units for it (elsewhere it gains little or loses).
    """
    import torch

    device, has_cuda = wanted.device, torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    if device != "cpu" and not (has_cuda and device.startswith("cuda")):
        raise UserError(f"machine.device is '{device}', not on this machine", "give cpu or auto")
    dtype = wanted.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" or has_bf16_units() else "float32"
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"machine.dtype is '{dtype}'", "give float32, bfloat16 or auto")
    weights = wanted.weights
    if weights != "auto" and (device == "cpu" or dtype != "bfloat16"):
        what = f"machine.weights is '{weights}', which is decoded on a GPU in bfloat16"
        raise UserError(f"{what}; this is {device} in {dtype}", "give auto")
    threads = wanted.threads or default_threads()
    return Machine(device, dtype, threads, wanted.workers, weights)


def has_bf16_units() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware (Intel AMX)."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def versions() -> dict[str, str]:
    """Versions that decide the bits of a result."""
    from importlib.metadata import PackageNotFoundError, version

    out = {"python": platform.python_version()}
    for name in ("puna", "torch", "numpy", "tokenizers", "safetensors"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed"
    return out


def commit() -> str:
    """The short hash of the checkout this library runs from; "" outside of one."""
    here = Path(__file__).parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
