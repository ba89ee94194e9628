"""Several audits: everything that a target means, some at a time.

`audit_all("reasoning_gym:*")` audits each of its datasets, `audit_all("proofs:mine")` your files.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from puna.core.errors import UserError, nearest
from puna.core.printable import printable
from puna.core.threads import default_threads
from puna.gym.audit.data import audit_data
from puna.gym.audit.findings import Audit
from puna.gym.audit.parent import TASKS, Progress, audit
from puna.gym.registry import FOREIGN, known_environments

WAITING = 2  # audits that wait for something while the cores work on others


def audit_all(
    target: str,
    *,
    n: int = TASKS,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
) -> list[Audit]:
    """One audit, or those of all that `PREFIX:*` stands for, some more at once than cores.

    A line on the terminal says what is being asked. Raises UserError as `audit` does.
    """
    name, colon, data = target.partition(":")
    if colon and known_environments().get(name) == "shipped":
        return [audit_data(name, data, settings, seed)]
    targets = members(target)
    with _shown(len(targets)) as show:

        def one(name: str) -> Audit:
            found = audit(name, n=n, seed=seed, settings=settings, only=only, progress=show(name))
            show(name)("")
            return found

        if len(targets) == 1:
            return [one(targets[0])]
        with ThreadPoolExecutor(default_threads() + WAITING) as pool:
            return list(pool.map(one, targets))


def members(target: str) -> list[str]:
    """`PREFIX:*` -> everything that library has; anything else is itself."""
    prefix, colon, rest = target.partition(":")
    if not colon or rest != "*":
        return [target]
    if prefix not in FOREIGN:
        raise UserError(f"'{prefix}' is no library", nearest(prefix, FOREIGN))
    module = importlib.import_module(FOREIGN[prefix])
    if not hasattr(module, "names"):
        raise UserError(f"{prefix} cannot list what it has", f"name one: {prefix}:NAME")
    return [f"{prefix}:{name}" for name in module.names()]


@contextlib.contextmanager
def _shown(count: int) -> Iterator[Any]:
    """Progress: on a terminal what is asked of what, elsewhere a line for each of many."""
    from rich.console import Console

    done, began = set[str](), time.monotonic()
    console = Console(stderr=True)
    with console.status("starting") if console.is_terminal else contextlib.nullcontext() as status:

        def of(name: str) -> Progress:
            def tell(probe: str) -> None:
                if not probe:
                    done.add(name)
                so_far = f"{len(done)} of {count}, " if count > 1 else ""
                line = f"{so_far}{time.monotonic() - began:.0f} s: {name}: {probe or 'done'}"
                if status is not None:
                    status.update(printable(line))
                elif count > 1 and not probe:
                    print(printable(line), file=sys.stderr, flush=True)

            return tell

        yield of
