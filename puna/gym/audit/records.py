"""Audits that were made, by the hash of what they are about: made once, asked for before training.

`require("arithmetic", {}, allow=False)` gives the record, and makes it where there is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.core.errors import UserError
from puna.core.files import json_bytes
from puna.core.printable import printable
from puna.gym.audit.findings import Audit
from puna.gym.audit.parent import TASKS, Progress, audit
from puna.gym.loop import identity
from puna.gym.registry import load_environment


def folder() -> Path:
    """Where records are kept: $PUNA_AUDITS, else puna/audits in the user's data directory."""
    if given := os.environ.get("PUNA_AUDITS"):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "puna" / "audits"


def _place(env: Mapping[str, str]) -> Path:
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in env["name"])[:60]
    return folder() / f"{name}-{env['hash']}.json"


def keep(found: Audit) -> Path | None:
    """Keep a record of all probes; None where it names no code, or there is no place for it."""
    if not found.env["hash"]:
        return None
    place = _place(found.env)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        aside.write_bytes(json_bytes(found.to_json(), indent=1))
        os.replace(aside, place)
    except OSError:
        return None
    return place


def find(env: Mapping[str, str]) -> Audit | None:
    """The record about exactly this code, these settings and this gym; None where there is none."""
    try:
        found = Audit.from_json(json.loads(_place(env).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if dict(found.env) == dict(env) else None


def require(
    target: str,
    settings: Mapping[str, Any],
    *,
    allow: bool = False,
    progress: Progress = lambda probe: None,
) -> Audit:
    """The audit of a reward that is about to be trained on; it is made where there is none yet.

    Raises UserError where it found holes, unless `allow`.
    """
    env = identity(load_environment(target, settings, 0))
    found = find(env)
    if found is None or found.n < TASKS:
        found = audit(target, settings=settings, progress=progress)
        keep(found)
    if not found.passed and not allow:
        names = ", ".join(f.probe for f in found.holes)
        raise UserError(
            printable(f"the reward of {found.env['name']} does not pass its audit ({names})"),
            f"`puna audit {target}` shows why; --unaudited trains on it all the same",
        )
    return found
