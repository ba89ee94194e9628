"""Keys of a server and what each may ask for; only their hashes are kept.

`new_key(Path("keys.toml"), "ann")` writes ann's hash and returns the key, which is told once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import re
import secrets
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from puna.core.errors import UserError, nearest

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Limits:
    """What one key may ask for; 0 is no limit. A minute's worth may come at once."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent: int = 0


class Bucket:
    """An allowance that refills by `rate` a minute, up to `rate`."""

    def __init__(self, rate: int) -> None:
        self.rate, self.left, self.at = rate, float(rate), time.monotonic()

    def wait(self) -> float:
        """Seconds until there is something again; 0 where there is."""
        if not self.rate:
            return 0.0
        now = time.monotonic()
        self.left = min(self.rate, self.left + (now - self.at) * self.rate / 60)
        self.at = now
        return max(0.0, (1 - self.left) * 60 / self.rate)

    def take(self, amount: int) -> None:
        """Spend, into debt if need be."""
        self.left -= amount


class Key:
    """A key's name, the SHA-256 of the key, and what it has in use."""

    def __init__(self, name: str, digest: bytes, limits: Limits) -> None:
        self.name, self.digest, self.limits = name, digest, limits
        self.requests = Bucket(limits.requests_per_minute)
        self.tokens = Bucket(limits.tokens_per_minute)
        self.open = 0

    def enter(self) -> tuple[int, str] | None:
        """One request more, or the seconds to wait and why."""
        if self.limits.concurrent and self.open >= self.limits.concurrent:
            return 1, f"this key has {self.open} requests open, which is its limit"
        for bucket, what in ((self.requests, "requests"), (self.tokens, "tokens")):
            if wait := bucket.wait():
                return math.ceil(wait), f"this key takes {bucket.rate} {what} a minute"
        self.requests.take(1)
        self.open += 1
        return None

    def leave(self, tokens: int) -> None:
        """The request has ended; it cost `tokens`."""
        self.open -= 1
        self.tokens.take(tokens)


class Keyring:
    """The keys of a server."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = list(keys)

    @staticmethod
    def of(key: str) -> Keyring:
        """One key without limits."""
        return Keyring([Key("key", _digest(key), Limits())])

    @staticmethod
    def read(path: Path) -> Keyring:
        """From a file of `new_key`. Raises UserError naming the key and field that is wrong."""
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            what = f"cannot read the keys in {path}: {error.strerror}"
            raise UserError(what, f"make one: puna serve --keys {path} --new-key NAME") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not TOML: {str(error)[:200]}") from None
        if not tables:
            raise UserError(f"{path} holds no key", f"puna serve --keys {path} --new-key NAME")
        return Keyring([_read(f"{path}: [{name}]", name, row) for name, row in tables.items()])

    def find(self, given: str) -> Key | None:
        """The key that was given; all are compared, so that time tells nothing."""
        digest, found = _digest(given), None
        for key in self.keys:
            found = key if hmac.compare_digest(digest, key.digest) else found
        return found


def new_key(path: Path, name: str) -> str:
    """Make a key, add its hash to `path`, and return it. Raises UserError where it cannot."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--new-key {name!r}", "give a name of letters, digits, - and _")
    if path.exists() and path.stat().st_size:
        known = [k.name for k in Keyring.read(path).keys]
        if name in known:
            raise UserError(f"{path} has a key named {name}", "take another name, or delete it")
    key = f"puna-{secrets.token_urlsafe(32)}"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
            file.write(f'[{name}]\nsha256 = "{_digest(key).hex()}"\n')
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _read(where: str, name: str, row: Any) -> Key:
    row = dict(row) if isinstance(row, dict) else {}
    digest = row.pop("sha256", "")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UserError(f"{where} has no sha256 of 64 hexadecimal digits", "make the key anew")
    known = [f.name for f in fields(Limits)]
    for field, value in row.items():
        if field not in known:
            raise UserError(f"{where} has no field {field!r}", nearest(field, known))
        if type(value) is not int or value < 0:
            shown = json.dumps(value, default=str)[:60]
            raise UserError(f"{where}: {field} = {shown}", "give a whole number, 0 for no limit")
    return Key(name, bytes.fromhex(digest), Limits(**row))
