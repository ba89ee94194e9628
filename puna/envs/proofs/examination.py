"""Every specification of a folder or file examined: `puna audit proofs:mine`.

A finding each: contradictory, vacuous, met by a stub (which is shown), or nothing against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from puna.envs.proofs import specs
from puna.envs.proofs.acceptance import Fault
from puna.envs.proofs.dialect import Spec
from puna.gym.audit.findings import Finding

if TYPE_CHECKING:
    from puna.envs.proofs.env import Proofs

REASON = "a program that does nothing of use must not meet it"


def findings(env: Proofs, data: Path) -> Sequence[Finding]:
    """One for each specification in `data`. Raises UserError where it has none."""
    return [_finding(env, spec) for part in specs.read(data).values() for spec in part]


def _finding(env: Proofs, spec: Spec) -> Finding:
    prover, found = env.examine_spec(spec)
    if isinstance(found, Fault):
        evidence = tuple(found.program.splitlines()[:40])
        seen = f"{found.kind}: {found.what}"
        return Finding(spec.name, REASON, "hole", seen, evidence=evidence)
    if found.kind != "valid":
        return Finding(spec.name, REASON, "none", f"{prover.name} {found}")
    return Finding(spec.name, REASON, "ok", f"no stub meets it, says {prover.name}")
