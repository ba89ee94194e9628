"""`puna serve`: which models, where, behind which key; then uvicorn.

`serve(Path("runs/quickstart"))` answers at http://127.0.0.1:8000 until it is interrupted.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from puna.core.errors import UserError
from puna.core.runs import find_model
from puna.serve.keyring import Keyring
from puna.serve.keyring import new_key as make_key
from puna.serve.keys import LOOPBACK

if TYPE_CHECKING:
    from puna.agents.model import Model

STALL_S = 60.0
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


def catalogue(target: Path, stage: str = "") -> dict[str, Callable[[], Model]]:
    """Names -> loaders: every finished stage of a run (the default first), or the one model.

    Raises UserError where there is none.
    """
    from puna.agents.model import load

    directory, first = find_model(target, stage)
    names = [first]
    if (target / "run.json").exists():
        others = {p.parent.parent.name for p in target.glob("*/model/config.json")} - {first}
        names += [n for n in sorted(others) if _finished(target, n)]
        return {n: partial(load, target, n) for n in names}
    return {first: partial(load, directory)}


def _finished(run: Path, stage: str) -> bool:
    """Whether the run knows the stage: a directory may be left from another plan."""
    try:
        find_model(run, stage)
    except UserError:
        return False
    return True


def serve(
    target: Path | None,
    *,
    stage: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str = "",
    keys: Path | None = None,
    new_key: str = "",
    allow_origin: Sequence[str] = (),
    runs: Path | None = None,
) -> None:
    """Serve until interrupted, or only print a `new_key` of the file `keys`.

    Raises UserError for a missing key, model, extra, port or format.
    """
    if new_key and keys is None:
        raise UserError("--new-key needs a file", "give --keys FILE")
    if new_key and keys is not None:
        print(make_key(keys, new_key))
        return
    if target is None:
        raise UserError("puna serve needs a run or a model", "puna serve runs/NAME")
    try:
        import uvicorn

        from puna.serve.app import create_app
        from puna.serve.worker import Worker
    except ImportError as error:
        what = f"puna serve needs {error.name}, which is not installed"
        raise UserError(what, 'pip install "puna[serve]"') from error
    ring = _ring(api_key_env, keys)
    if host not in LOOPBACK and ring is None:
        what = f"--host {host} is open to others, and there is no key"
        raise UserError(what, "name one: --api-key-env NAME, or --keys FILE")
    for origin in allow_origin:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(f"--allow-origin {origin!r}", "give it like https://app.example")
    from puna.text.tokenizer import Tokenizer

    directory = find_model(target, stage)[0]
    Tokenizer.load(directory).require_chat(directory)
    models = catalogue(target, stage)
    is_run = (target / "run.json").exists()
    folder = runs or (target.resolve().parent if is_run else Path("runs"))
    listening = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    print(f"models: {', '.join(models)}")
    print(f"chat: {address}/    runs: {address}/runs    OpenAI clients: {address}/v1")
    if ring is not None:
        print(f"in a browser open {address}/?key=... once, with a key")
    print("Ctrl-C ends it", flush=True)
    home = target if is_run else None
    app = create_app(Worker(models), folder, keys=ring, origins=allow_origin, home=home)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(app.close)  # what is being said ends, then the rest
            await super().shutdown(sockets)

    Server(config).run(sockets=[listening])


def _ring(api_key_env: str, keys: Path | None) -> Keyring | None:
    """The keys that are asked for, of a file or the one of the environment; None for none."""
    if keys is not None:
        if api_key_env:
            raise UserError("--keys and --api-key-env are both given", "give one of them")
        return Keyring.read(keys)
    if not api_key_env:
        return None
    key = os.environ.get(api_key_env, "")
    if not key:
        raise UserError(f"{api_key_env} is not set", f"export {api_key_env}=...")
    if not key.isascii() or any(c in key for c in ' ;,"\\\t\n'):
        raise UserError(f"{api_key_env} holds characters that no header takes", "use letters, - _")
    return Keyring.of(key)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError where the port is taken or the address not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # who takes nothing for so long is cut off
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_S * 1000))
        found.listen(2048)  # from here on who comes waits, instead of being refused
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot listen at {host}:{port}: {why}", "try --port 0") from error
    return found
