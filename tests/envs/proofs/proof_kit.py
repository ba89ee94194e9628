"""What the tests of proofs share."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from puna.envs.proofs import env, fast, specs
from puna.envs.proofs.dialect import Spec
from puna.envs.proofs.prover import Verdict

SUBMISSIONS = Path(__file__).parent / "submissions"


def judge(source: str, steps: int) -> tuple[str, str]:
    """`solving.judge`, imported where z3 is known to be there."""
    from puna.envs.proofs import solving

    return solving.judge(source, steps)


class Here:
    """The prover in this very process: what the tests hand it is known to be tame."""

    name = "fast"

    def version(self) -> str:
        return fast.Fast().version()

    def prove(self, source: str, deadline: float) -> Verdict:
        return Verdict(*judge(source, int(deadline * fast.STEPS)))


def verdict(text: str) -> Verdict:
    return Here().prove(text, 0.1)


def seed(name: str) -> Spec:
    return specs.read_file(env.SEEDS / f"{name}.py")


def table(name: str) -> list[dict[str, Any]]:
    """The cases of a data file, in its order."""
    cases: list[dict[str, Any]] = tomllib.loads((SUBMISSIONS / name).read_text())["case"]
    return cases


def submission(case: dict[str, Any]) -> tuple[Spec, str]:
    spec = seed(case["spec"])
    return spec, specs.normal(case["text"] if "text" in case else spec.with_body(case["body"]))
