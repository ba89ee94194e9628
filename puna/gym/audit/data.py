"""The user's own tasks examined: `audit_data("proofs", "mine")` says what is wrong with each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.gym.audit.findings import Audit
from puna.gym.registry import load_environment


def audit_data(
    name: str, data: str, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> Audit:
    """A finding for each task in the files `data`.

    Raises UserError where the environment examines no files, or there are none.
    """
    if not data:
        raise UserError(f"{name}: names no files", f"puna audit {name}:FOLDER")
    env, began = load_environment(name, settings, seed), time.monotonic()
    try:
        found = tuple(env.examine(Path(data)))
    except NotImplementedError:
        raise UserError(f"{name} examines no files", f"puna audit {name}") from None
    about = {"name": f"{name}:{data}", "version": env.version, "hash": ""}
    seconds = time.monotonic() - began
    return Audit(f"{name}:{data}", about, len(found), seed, found, dict(settings or {}), seconds)
