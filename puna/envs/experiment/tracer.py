"""Notes which functions a program calls and which files it reads; runs inside the jail.

It is found as `sitecustomize`, so every Python process of a command begins with it. Each line of
its notes: `call`, the file, the first line and the name of a function; or `open` and a path.
"""

import os
import sys
import threading
from types import FrameType
from typing import Any

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
notes = os.open(os.path.join(FOLDER, "notes"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
seen: dict[Any, Any] = {}


def note(*words: object) -> None:
    """Append a line."""
    os.write(notes, ("\t".join(map(str, words)) + "\n").encode("utf-8", "replace"))


def called(frame: FrameType, event: str, argument: object) -> None:
    """Note a function of the repository when it is first called."""
    code = frame.f_code
    if event == "call" and id(code) not in seen:
        seen[id(code)] = code
        path = os.path.abspath(code.co_filename)
        if path.startswith(ROOT + os.sep):
            note("call", os.path.relpath(path, ROOT), code.co_firstlineno, code.co_qualname)


def opened(event: str, arguments: tuple[Any, ...]) -> None:
    """Note a file of the repository when it is first opened."""
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.abspath(arguments[0])
        if path not in seen and path.startswith(ROOT + os.sep):
            seen[path] = True
            note("open", os.path.relpath(path, ROOT))


sys.addaudithook(opened)
threading.setprofile(called)
sys.setprofile(called)
