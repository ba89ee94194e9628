"""Parsing a verb's options with tyro, from one dataclass a verb; a mistake is one line."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TypeVar

from puna.core.errors import UserError

T = TypeVar("T")


def parse(cls: type[T], verb: str, args: Sequence[str], about: str) -> T:
    """An instance of `cls` from the arguments after `puna VERB`; `--help` prints and exits 0."""
    import tyro

    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            return tyro.cli(
                cls,
                prog=f"puna {verb}",
                args=list(args),
                description=about,
                config=(tyro.conf.FlagConversionOff,) if False else (),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in caught.getvalue().splitlines()]
        text = [line for line in lines if line and "Parsing error" not in line]
        text = [line for line in text if not line.startswith(("For full help", "usage:"))]
        what = "; ".join(text[:2]) or "the options are wrong"
        raise UserError(f"puna {verb}: {what}", f"`puna {verb} --help` lists the options") from None
