"""All cases, and whether the peers they need are there.

`for case in CASES.values(): case.passes(case.measure())`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distributions
from importlib.metadata import version as installed

from benchmarks.parity import families, fields, full, generate, long, meta, rows, vision
from benchmarks.parity.case import CASES

__all__ = ["CASES", "PARTS", "missing", "version"]

PARTS = (full, rows, fields, families, vision, generate, long, meta)


def version(peer: str) -> str:
    """The version of a peer that is installed, or an empty text."""
    if peer == meta.PEER:
        found = [d.version for d in distributions(path=[str(meta.FOLDER)]) if d.name == meta.NAME]
        return found[0] if found else ""
    try:
        return installed(peer)
    except PackageNotFoundError:
        return ""


def missing(peer: str) -> str:
    """What to type for a peer that is not installed; empty where it is."""
    if version(peer):
        return ""
    return meta.INSTALL if peer == meta.PEER else f"pip install {peer}"
