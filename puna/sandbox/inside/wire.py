"""One message on a stream socket: a length, a JSON header, and the blobs it announces.

Both sides of the wall import this file, so it needs the standard library only.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

HEAD = struct.Struct(">I")
LARGEST_HEADER = 64 << 20


def encode(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """The bytes of a message; `header["blobs"]` is set to the sizes of `blobs`."""
    text = json.dumps({**header, "blobs": [len(b) for b in blobs]}).encode()
    return b"".join((HEAD.pack(len(text)), text, *blobs))


class Incoming:
    """Collects the bytes of one message as they come; `done` once it is whole.

    Raises ValueError where the message would be larger than `limit` bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = bytearray()
        self.header: dict[str, Any] | None = None
        self.need = HEAD.size

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.data += data
        while self.header is None and len(self.data) >= self.need:
            if self.need == HEAD.size:
                (size,) = HEAD.unpack_from(self.data)
                if size > LARGEST_HEADER:
                    raise ValueError(f"a header of {size:,} bytes")
                self._grow(size)
            else:
                self.body = self.need
                self.header = json.loads(bytes(self.data[HEAD.size : self.need]))
                assert self.header is not None
                self._grow(sum(self.header["blobs"]))

    def _grow(self, size: int) -> None:
        self.need += size
        if self.need > self.limit:
            raise ValueError(f"a message of {self.need:,} bytes, allowed are {self.limit:,}")

    @property
    def done(self) -> bool:
        """Whether nothing is missing."""
        return self.header is not None and len(self.data) >= self.need

    def message(self) -> tuple[dict[str, Any], list[bytes]]:
        """Header and blobs of a whole message."""
        assert self.header is not None
        blobs, at = [], self.body
        for size in self.header["blobs"]:
            blobs.append(bytes(self.data[at : at + size]))
            at += size
        return self.header, blobs


def tell(connection: socket.socket, error: object) -> None:
    """Report that the machinery failed, as far as anybody listens."""
    try:
        connection.sendall(encode({"error": f"{error}" or repr(error)}))
    except OSError:
        pass


def receive(recv: Callable[[int], bytes], limit: int) -> tuple[dict[str, Any], list[bytes]]:
    """A whole message, by blocking reads. Raises EOFError where the other side went away."""
    incoming = Incoming(limit)
    while not incoming.done:
        data = recv(min(1 << 20, incoming.need - len(incoming.data)))
        if not data:
            raise EOFError("the other side closed the connection")
        incoming.feed(data)
    return incoming.message()
