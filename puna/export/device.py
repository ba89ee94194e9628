"""How much memory a device has: by name from `devices.toml`, as a number of bytes, or this machine.

`find_device("h100").usable`; `find_device("24GB")`; `find_device("here")`.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from puna.core.errors import UserError, nearest

RESERVED = 1_000_000_000  # for a GPU's context and libraries, or for Python and PyTorch
_SIZE = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*(?:([kmgt])(i)?)?b?")
_UNITS = "kmgt"


@dataclass(frozen=True)
class Device:
    """`processor`: main memory, not a GPU's. Bytes that a plan may use leave `RESERVED` out."""

    name: str
    bytes: int
    processor: bool = False

    @property
    def usable(self) -> int:
        """Bytes for tensors."""
        return max(0, self.bytes - RESERVED)


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads((files("puna.export") / "devices.toml").read_text())


def find_device(text: str) -> Device:
    """The device of that name or size; "here" is this machine's GPU, else its free main memory.

    Raises UserError for anything else, with the nearest name.
    """
    name = text.strip().lower()
    if name == "here":
        return _here()
    if name in _tables():
        table = _tables()[name]
        return Device(name, table["mib"] * 2**20 if "mib" in table else table["gb"] * 10**9)
    size = _SIZE.fullmatch(name)
    if size is None:
        known = [*_tables(), "here"]
        hint = f"{nearest(name, known)} or give bytes, e.g. 24GB"
        raise UserError(f"no device '{text}'", hint)
    power = _UNITS.index(size[2]) + 1 if size[2] else 0
    count = float(size[1]) * (1024 if size[3] else 1000) ** power
    if not RESERVED < count < 1e18:
        fix = f"give more than the {RESERVED:,} bytes that are set aside, e.g. 24GB"
        raise UserError(f"device of {text}: not a size of memory", fix)
    return Device(text.strip(), int(count))


def _here() -> Device:
    import torch

    if torch.cuda.is_available():
        seen = torch.cuda.get_device_properties(0)
        return Device(f"here ({seen.name})", seen.total_memory)
    return Device("here (main memory, now free)", _free_memory(), processor=True)


def _free_memory() -> int:
    """Bytes that programs could still take, and a container's bound on them if it is lower."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        free = int(found[1]) * 1024 if found else 0
    except OSError:
        free = 0
    free = free or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup")
    try:
        bound = int((group / "memory.max").read_text())
        return min(free, bound - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return free
