"""Brings the files of jobs that have ended to whoever waits: the one process that reads them.

It never forks, so what it has read stays here.
"""

from __future__ import annotations

import json
import os
import socket

from puna.sandbox.inside import box, usage, wire

AT_ONCE = 100_000  # bytes that a socket takes without anybody reading
PATIENCE_S = 60.0


def start(control: socket.socket) -> socket.socket:
    """Fork the porter; its end of a socket pair is returned. `control` is closed in it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        control.close()
        ours.close()
        try:
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _serve(orders: socket.socket) -> None:
    while True:
        data, fds, _, _ = socket.recv_fds(orders, 1 << 16, 6)
        if not data:
            return
        connection = socket.socket(fileno=fds[0])
        at = usage.Opened(fds[1], fds[3:])
        try:
            order = json.loads(data)
            with open(fds[2], "rb") as file:
                outputs = json.load(file)
            message = box.answer(order["header"], at, outputs, order["limits"])
        except Exception as error:
            message = wire.encode({"error": f"{error}" or repr(error)})
        at.close()
        connection.settimeout(PATIENCE_S)
        if len(message) < AT_ONCE:
            _send(connection, message)
        else:
            import threading  # here: in the keeper it would slow down every fork

            threading.Thread(target=_send, args=(connection, message), daemon=True).start()


def _send(connection: socket.socket, message: bytes) -> None:
    with connection:
        try:
            connection.sendall(message)
        except OSError:
            pass  # nobody waits any more
