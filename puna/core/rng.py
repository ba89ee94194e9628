"""Counter-based random streams: a draw depends on its key alone, never on the order of calls.

`stream(seed, "rl", step, task, sample).random(8)` is the same in any process.
"""

from __future__ import annotations

import hashlib

import numpy as np

Key = int | str


def digest(seed: int, *key: Key) -> bytes:
    """32 bytes that name the stream of (seed, key...)."""
    # int(...): a NumPy integer names the same stream as Python's.
    words = (f"str:{k}" if isinstance(k, str) else f"int:{int(k)}" for k in (seed, *key))
    text = "\x1f".join(words).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=32).digest()


def stream(seed: int, *key: Key) -> np.random.Generator:
    """A Philox generator keyed by (seed, key...) (Salmon et al. 2011, counter-based)."""
    words = np.frombuffer(digest(seed, *key), dtype=np.uint64)
    return np.random.Generator(
        np.random.Philox(key=words[:2], counter=np.append(words[2:], [0, 0]))
    )


def derive(seed: int, *key: Key) -> int:
    """A 63-bit seed derived from (seed, key...), for libraries that take one integer."""
    return int.from_bytes(digest(seed, *key)[:8], "little") >> 1
