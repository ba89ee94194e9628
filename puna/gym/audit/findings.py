"""What an audit found: one Finding a probe, and the hashed record of all.

`Audit(...).passed`; `show(audit)` prints a table, `show(audit, as_json=True)` JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from puna.core.files import sha256_json

SCHEMA = 3  # 2 had no earned; 1 no status, no command and no target
Status = Literal["ok", "hole", "note", "none"]


@dataclass(frozen=True)
class Finding:
    """One probe: what it asked and why, what was seen, and the command that shows it again.

    `status`: "ok" it held, "hole" it did not, "note" worth knowing but no reason to refuse, "none"
    there was nothing to ask. `evidence`: the first cases, one line each. `earned`: the most that
    one of the answers tried earned, in the mean over tasks (None where nothing was answered).
    """

    probe: str
    reason: str
    status: Status
    seen: str
    command: str = ""
    evidence: tuple[str, ...] = ()
    earned: float | None = None

    @property
    def passed(self) -> bool:
        """Whether this is no reason to refuse the reward."""
        return self.status != "hole"


@dataclass(frozen=True)
class Audit:
    """All findings of one target; `id` is a hash that results can carry."""

    target: str
    env: Mapping[str, str]
    n: int
    seed: int
    findings: tuple[Finding, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no probe found a hole."""
        return all(f.passed for f in self.findings)

    @property
    def holes(self) -> tuple[Finding, ...]:
        """The probes that found one."""
        return tuple(f for f in self.findings if not f.passed)

    @property
    def id(self) -> str:
        """Names this record: a hash over all of it but the time it took."""
        return sha256_json(self._body())[:16]

    def _body(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "target": self.target,
            "env": dict(self.env),
            "settings": dict(self.settings),
            "n": self.n,
            "seed": self.seed,
            "passed": self.passed,
            "findings": [asdict(f) for f in self.findings],
        }

    def to_json(self) -> dict[str, Any]:
        """A record with its own hash."""
        return {**self._body(), "id": self.id, "seconds": round(self.seconds, 2)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Audit:
        """Read a record. Raises ValueError where its hash does not fit, or the schema is older."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')!r}, not {SCHEMA}")
        found = tuple(
            Finding(**{**f, "evidence": tuple(f.get("evidence", ()))}) for f in data["findings"]
        )
        audit = Audit(
            data["target"], data["env"], data["n"], data["seed"], found, data["settings"],
            float(data.get("seconds", 0.0)),
        )  # fmt: skip
        if audit.id != data.get("id"):
            raise ValueError("the record's hash does not fit what it says")
        return audit


MARKS = {"ok": "ok", "hole": "FAILED", "note": "note", "none": "-"}


def show(found: Audit | Sequence[Audit], as_json: bool = False) -> None:
    """Print one audit as a table, several as a line each; JSON for machines."""
    many = not isinstance(found, Audit)
    audits = [found] if isinstance(found, Audit) else list(found)
    if as_json:
        records = [a.to_json() for a in audits]
        print(json.dumps(records if many else records[0], indent=1))
        return
    from rich.console import Console

    console = Console()
    for each in audits:
        if many:
            _line(each, console)
        else:
            _table(each, console)


def _line(found: Audit, console: Any) -> None:
    from puna.core.printable import printable

    names = ", ".join(f.probe for f in found.holes)
    text = f"{found.target}: {'passed' if found.passed else f'FAILED: {names}'}"
    console.print(printable(text), highlight=False, markup=False)


def _table(found: Audit, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from puna.core.printable import printable

    title = f"audit of {found.env['name']} {found.env['version']}"
    if found.env["hash"]:
        title += f" ({found.env['hash']})"
    table = Table(title=Text(printable(title)), title_justify="left")
    for column in ("probe", "", "seen", "why"):
        table.add_column(column)
    for f in found.findings:
        cells = (f.probe, MARKS[f.status], f.seen, f.reason)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    for f in found.holes:
        shown = [f"{f.probe}: {f.command}"] if f.command else [f"{f.probe}:", *f.evidence]
        console.print(printable("\n".join(shown)), highlight=False, markup=False)
    verdict = "passed" if found.passed else "FAILED: do not train on this reward yet"
    console.print(f"audit {found.id}: {verdict}", highlight=False)
