"""Runs untrusted code: `open_sandbox().run_now(Job.python("print(6 * 7)"))`.

`job.py` says what goes in and comes out, `base.py` what a sandbox offers, `bubblewrap.py` and
`process.py` are the backends, `limited.py` bounds a call of trusted code. docs/sandbox.md.
"""

from puna.sandbox.backends import choose, open_sandbox, shared
from puna.sandbox.base import Answer, Mounts, Sandbox
from puna.sandbox.job import Job, Limits, Result, SandboxError
from puna.sandbox.limited import LimitError, limited

__all__ = [
    "Answer",
    "Job",
    "LimitError",
    "Limits",
    "Mounts",
    "Result",
    "Sandbox",
    "SandboxError",
    "choose",
    "limited",
    "open_sandbox",
    "shared",
]
