"""The `puna` command: one function a verb. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from puna.core.errors import UserError, nearest

VERBS: dict[str, tuple[str, str]] = {
    "run": ("puna.verbs.run", "run a recipe"),
    "eval": ("puna.verbs.eval", "score a run, a model or an endpoint on an environment"),
    "chat": ("puna.verbs.chat", "talk to what you trained"),
    "audit": ("puna.verbs.audit", "test an environment's reward before you trust it"),
    "env": ("puna.verbs.env", "list, show, try or write environments"),
    "doctor": ("puna.verbs.doctor", "what this machine has and lacks, and what that disables"),
}


def usage() -> str:
    """The text of `puna --help`."""
    lines = ["usage: puna VERB ...", "", "Puna raises Llama-style models into agents.", ""]
    lines += [f"  {verb:<8}{what}" for verb, (_, what) in VERBS.items()]
    lines += ["", "puna VERB --help tells more. Start here: puna run quickstart"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake is one line and exit status 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(args)
    except UserError as error:
        print(f"puna: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("puna: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except RuntimeError as error:
        from puna.core.stage import StageError

        if not isinstance(error, StageError):
            raise
        print(f"puna: {error}", file=sys.stderr)
        return 1


def dispatch(args: list[str]) -> int:
    """Find the verb's function and call it."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version", "version"):
        from puna import __version__

        print(f"puna {__version__}")
        return 0
    if args[0] not in VERBS:
        raise UserError(f"no verb '{args[0]}'", nearest(args[0], VERBS))
    import importlib

    verb: Callable[[list[str]], int] = importlib.import_module(VERBS[args[0]][0]).main
    return verb(args[1:])


if __name__ == "__main__":
    sys.exit(main())
