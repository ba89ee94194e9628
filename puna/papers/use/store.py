"""A store of users' states on disk: refresh with a period's events, read, delete.

`StateStore(Path("states"), encoder).refresh("user-7", 3, [5, 2, 9])` -> the user's vector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from puna.core.errors import UserError
from puna.core.files import locked, write_bytes

from .method import Encoder, State

SCHEMA = 1
ENDING = ".safetensors"


@dataclass(frozen=True)
class Kept:
    """A user's state, the last period in it and the hash of that period's events."""

    user: str
    period: int
    events: str
    state: State


class StateStore:
    """States of one encoder's users, a file a user; several processes may use it at once.

    A refresh is idempotent: the same user, period and events again change nothing. What another
    encoder made is refused, as its numbers would mean something else.
    """

    def __init__(self, directory: Path, encoder: Encoder) -> None:
        self.directory, self.encoder = directory, encoder
        self.model = encoder.fingerprint()

    def refresh(self, user: str, period: int, events: Sequence[int]) -> NDArray[np.float32]:
        """Read a period's events (none is allowed) on top of the state; the (D,) embedding.

        Periods must rise, gaps are allowed. Raises UserError for a period that is older than the
        last, or the last one with other events; ValueError for an event that is no type.
        """
        ids = self._ids(events)
        name = hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:16]
        with locked(self._lock(user), patience_s=60.0):
            kept = self._read(user)
            if kept is not None and period <= kept.period:
                if (period, name) == (kept.period, kept.events):
                    return _row(kept.state)
                what = f"user '{user}': period {period} is not after {kept.period}"
                raise UserError(what, "give each period once, in order; or delete the user")
            state = self.encoder.encode(ids, kept.state if kept else None)
            self._write(Kept(user, period, name, state))
        return _row(state)

    def embedding(self, user: str) -> NDArray[np.float32] | None:
        """The user's (D,) vector as of the last refresh, None for one who is not here."""
        kept = self._read(user)
        return None if kept is None else _row(kept.state)

    def delete(self, user: str) -> bool:
        """Drop all that is kept of a user, state and embedding; whether there was anything."""
        path = self._path(user)
        with locked(self._lock(user), patience_s=60.0):
            there = path.exists()
            path.unlink(missing_ok=True)
        return there

    def users(self) -> Iterator[str]:
        """Everyone who has a state here."""
        for path in sorted(self.directory.glob(f"*{ENDING}")):
            yield self._load(path)[1]["user"]

    def _ids(self, events: Sequence[int]) -> torch.Tensor:
        found = np.asarray(events, dtype=None if len(events) else np.int64)
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise ValueError("a period is a list of events, whole numbers")
        ids = torch.from_numpy(found.astype(np.int64))[None]
        self.encoder.check(ids)
        if bool((ids < 0).any()):
            raise ValueError("a pad is no event")
        return ids

    def _path(self, user: str) -> Path:
        # A name is anything; a file's name is not.
        name = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()
        return self.directory / (name + ENDING)

    def _lock(self, user: str) -> Path:
        # Not beside the state: a lock must outlive what a deletion takes away.
        return self.directory / "locks" / self._path(user).name[:2]

    def _write(self, kept: Kept) -> None:
        facts = {"schema": SCHEMA, "model": self.model, "user": kept.user}
        facts |= {"period": kept.period, "events": kept.events}
        tensors = {
            "layers": kept.state.layers_LBHKK.contiguous(),
            "seen": kept.state.seen_B.contiguous(),
            "total": kept.state.total_BD.contiguous(),
        }
        data = save(tensors, metadata={"use": json.dumps(facts)})
        write_bytes(self._path(kept.user), data, "use")

    def _read(self, user: str) -> Kept | None:
        path = self._path(user)
        if not path.exists():
            return None
        tensors, facts = self._load(path)
        if facts["model"] != self.model:
            what = f"the state of user '{user}' is of another model ({facts['model']})"
            raise UserError(what, "delete the user and refresh with the whole history")
        state = State(tensors["layers"], tensors["seen"], tensors["total"])
        return Kept(user, facts["period"], facts["events"], state)

    def _load(self, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["use"])
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no user's state: {error}", "delete that file") from error


def _row(state: State) -> NDArray[np.float32]:
    row: NDArray[np.float32] = state.embedding()[0].numpy()
    return row
