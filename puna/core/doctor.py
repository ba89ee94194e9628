"""`puna doctor`: what this machine has and lacks, and what that disables."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One line: `state` is "ok", "missing" or "note"."""

    name: str
    state: str
    seen: str
    effect: str = ""


def checks() -> list[Check]:
    """Everything looked at here; other rooms add their own (`examine`)."""
    return [*_python(), *_machine(), *_packages(), *_programs()]


def _python() -> list[Check]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return [Check("python", "ok" if good else "missing", version, "" if good else "needs 3.11")]


def _machine() -> list[Check]:
    from puna.core.threads import default_threads

    out = [Check("cores", "ok", f"{default_threads()} usable of {os.cpu_count()}")]
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        effect = "" if pages >= 4 else "the quickstart wants 4 GB"
        out.append(Check("memory", "ok" if pages >= 4 else "missing", f"{pages:.1f} GB", effect))
    except (ValueError, OSError):
        out.append(Check("memory", "note", "unknown"))
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state = "ok" if free >= 2 else "missing"
    out.append(
        Check("disk here", state, f"{free:.1f} GB free", "" if free >= 2 else "runs want 2 GB")
    )
    try:
        import torch
    except ImportError:
        fix = "training, sampling: pip install torch"
        return [*out, Check("torch", "missing", "not installed", fix)]
    parts = [int(p) for p in torch.__version__.split("+")[0].split(".")[:2]]
    fits = [2, 11] <= parts <= [2, 13]
    out.append(
        Check(
            "torch",
            "ok" if fits else "note",
            torch.__version__,
            "" if fits else "tested: 2.11-2.13",
        )
    )
    if torch.cuda.is_available():
        out.append(Check("gpu", "ok", torch.cuda.get_device_name(0)))
    else:
        out.append(Check("gpu", "note", "none", "everything runs on the processor"))
    try:
        flags = Path("/proc/cpuinfo").read_text()
        units = "amx_bf16" in flags
        out.append(
            Check(
                "bf16 units",
                "ok" if units else "note",
                "AMX" if units else "none",
                "" if units else "training uses fp32 here: bf16 would gain little or lose",
            )
        )
    except OSError:
        out.append(Check("bf16 units", "note", "unknown", "training uses fp32 here"))
    return out


def _packages() -> list[Check]:
    wanted = {
        "matplotlib": "curves in reports: pip install 'puna[report]'",
        "httpx": "outside endpoints: pip install 'puna[endpoint]'",
        "fastapi": "puna serve, and outside agents: pip install 'puna[serve]'",
        "llguidance": "answers that fit a schema or a grammar: pip install 'puna[serve]'",
        "pyarrow": "Parquet data: pip install 'puna[parquet]'",
        "tensorboard": "puna run --tensorboard: pip install 'puna[tensorboard]'",
        "reasoning_gym": "environments reasoning_gym:NAME: pip install 'puna[gyms]'",
        "gymnasium": "environments gymnasium:ID: pip install 'puna[gyms]'",
        "z3": "environment proofs: pip install 'puna[proofs]'",
        "torch_geometric": "puna paper run uniprompt: pip install 'puna[graphs]'",
        "transformers": "the parity tests: pip install 'puna[dev]'",
    }
    out = []
    for name, effect in wanted.items():
        there = importlib.util.find_spec(name) is not None
        out.append(
            Check(
                name,
                "ok" if there else "note",
                "installed" if there else "not installed",
                "" if there else effect,
            )
        )
    return out


def _programs() -> list[Check]:
    wanted = {
        "git": "runs do not record the commit",
        "why3": "proofs of all of micro-Python: apt-get install --no-install-recommends why3 z3",
        "dafny": "proofs of .dfy files: apt-get install --no-install-recommends dafny",
    }
    out = []
    for name, effect in wanted.items():
        path = shutil.which(name)
        out.append(
            Check(name, "ok" if path else "note", path or "not found", "" if path else effect)
        )
    return out


def examine(more: Sequence[Check] = ()) -> int:
    """Print all checks; 1 where something that everything needs is missing."""
    found = [*checks(), *more]
    width = max(len(c.name) for c in found)
    for check in found:
        effect = f"  -> {check.effect}" if check.effect else ""
        print(f"{check.state:<8}{check.name:<{width + 2}}{check.seen}{effect}")
    bad = [c.name for c in found if c.state == "missing"]
    print(f"missing: {', '.join(bad)}" if bad else "ready: puna run quickstart")
    return 1 if bad else 0
