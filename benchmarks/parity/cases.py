"""All cases, and whether the peers they need are there.

`for case in CASES.values(): case.passes(case.measure())`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distributions
from importlib.metadata import version as installed

from benchmarks.parity import families, fields, formats, full, generate, long, meta, rows, vision
from benchmarks.parity.case import CASES

__all__ = ["CASES", "PARTS", "missing", "version"]

PARTS = (full, rows, fields, families, vision, formats, generate, long, meta)

# Peers that stand apart from this environment: the name there, and where.
_FOLDERS = {
    meta.PEER: (meta.NAME, [str(meta.FOLDER)]),
    formats.PEER: (formats.PEER, [str(site) for site in formats.SITES]),
}
_INSTALL = {meta.PEER: meta.INSTALL, formats.PEER: formats.INSTALL}


def version(peer: str) -> str:
    """The version of a peer that is installed, or an empty text."""
    if peer in _FOLDERS:
        name, folders = _FOLDERS[peer]
        found = [d.version for d in distributions(path=folders) if d.name == name]
        return found[0] if found else ""
    try:
        return installed(peer)
    except PackageNotFoundError:
        return ""


def missing(peer: str) -> str:
    """What to type for a peer that is not installed; empty where it is."""
    if version(peer):
        return ""
    return _INSTALL.get(peer, f"pip install {peer}")
