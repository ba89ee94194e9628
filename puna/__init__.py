"""Puna raises Llama-style models into agents. What the command does, these names do too.

>>> import puna
>>> class Doubles(puna.SingleTurn):
...     name = "doubles"
...     def make(self, rng):
...         n = int(rng.integers(10_000))
...         return puna.Problem(f"Twice {n}?", str(2 * n))
...     def score(self, answer, problem):
...         return float(answer.strip() == problem.answer)
>>> task = Doubles().task("test", 0)
>>> isinstance(task, puna.Task), task.messages[0] == puna.Message.user(task.key)
(True, True)
>>> puna.Scored(value=1.0, success=True) == puna.Scored(1.0, True)
True
>>> puna.audit("arithmetic", n=5).passed
True
>>> try:
...     puna.eval("runs/nowhere", "arithmetic")
... except puna.UserError as mistake:
...     print(mistake)
no run or model at runs/nowhere; make one: puna run quickstart

`run`, `load`, `eval` and `compare` have examples of their own: `help(puna.run)`. A name is imported
when it is first used, so `import puna` loads neither torch nor numpy.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # as typing's own, which would be half the cost of `import puna`
if TYPE_CHECKING:
    from typing import Any

    from puna.agents.model import Model as Model
    from puna.agents.model import Sample as Sample
    from puna.agents.model import load as load
    from puna.api import Run as Run
    from puna.api import run as run
    from puna.core.errors import UserError as UserError
    from puna.core.messages import Message as Message
    from puna.core.outcome import Infra as Infra
    from puna.core.outcome import Invalid as Invalid
    from puna.core.outcome import Scored as Scored
    from puna.evals.api import Evaluation as Evaluation
    from puna.evals.api import eval as eval
    from puna.evals.compare import Comparison as Comparison
    from puna.evals.compare import compare as compare
    from puna.evals.propose import Proposed as Proposed
    from puna.evals.propose import propose as propose
    from puna.export.convert import Exported as Exported
    from puna.export.convert import export as export
    from puna.export.plan import Plan as Plan
    from puna.export.plan import plan as plan
    from puna.gym.audit import Audit as Audit
    from puna.gym.audit import audit as audit
    from puna.gym.environment import Environment as Environment
    from puna.gym.environment import Problem as Problem
    from puna.gym.environment import SingleTurn as SingleTurn
    from puna.gym.registry import load_environment as load_environment
    from puna.gym.task import Task as Task

__version__ = "0.1.0"
_PUBLIC = {
    "Audit": "puna.gym.audit",
    "Comparison": "puna.evals.compare",
    "Environment": "puna.gym.environment",
    "Evaluation": "puna.evals.api",
    "Exported": "puna.export.convert",
    "Infra": "puna.core.outcome",
    "Invalid": "puna.core.outcome",
    "Message": "puna.core.messages",
    "Model": "puna.agents.model",
    "Plan": "puna.export.plan",
    "Problem": "puna.gym.environment",
    "Proposed": "puna.evals.propose",
    "Run": "puna.api",
    "Sample": "puna.agents.model",
    "Scored": "puna.core.outcome",
    "SingleTurn": "puna.gym.environment",
    "Task": "puna.gym.task",
    "UserError": "puna.core.errors",
    "audit": "puna.gym.audit",
    "compare": "puna.evals.compare",
    "eval": "puna.evals.api",
    "export": "puna.export.convert",
    "load": "puna.agents.model",
    "load_environment": "puna.gym.registry",
    "plan": "puna.export.plan",
    "propose": "puna.evals.propose",
    "run": "puna.api",
}
__all__ = sorted(_PUBLIC)


def _kept(name: str) -> property:
    """`puna.NAME` is always the function, though the import system sets the module there."""

    def function(self: ModuleType) -> Any:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)

    return property(function, lambda self, module: None)


class _Package(ModuleType):
    """This package: `puna.run` and `puna.export` stay functions when such modules are imported."""

    run, export = _kept("run"), _kept("export")


sys.modules[__name__].__class__ = _Package

# Hidden from type checkers, so that they report names that are not there.
if not TYPE_CHECKING:

    def __getattr__(name):
        """Import a public name when it is first used."""
        if name not in _PUBLIC:
            raise AttributeError(f"module 'puna' has no attribute '{name}'")
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)

    def __dir__():
        return sorted({*globals(), *_PUBLIC})
