"""What is freed is used again instead of being given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys
import numpy as np
from puna.core.threads import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def one():
    held = [np.ones(1 << 20, np.float32) for _ in range(30)]

if sys.argv[1] == "keep":
    keep_freed_memory()
one()
before = faults()
for _ in range(5):
    one()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept() -> None:
    """120 MB, allocated and freed five times: pages are touched once, or again each time."""

    def count(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", ROUNDS, how], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert count("keep") < 1_000
    assert count("leave") > 50_000
