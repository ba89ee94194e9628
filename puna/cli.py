"""The `puna` command: one function a verb. Nothing heavy is imported before a verb needs it."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from puna.core.errors import UserError, nearest


def parse(cls: Any, verb: str, args: Sequence[str], about: str) -> Any:
    """An instance of `cls` from the arguments after `puna VERB`; `--help` prints and exits 0.

    Raises UserError, in one line, for options that are unknown, missing or of the wrong type.
    """
    import tyro

    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            return tyro.cli(cls, prog=f"puna {verb}", args=list(args), description=about)
    except SystemExit as stop:
        if not stop.code:
            raise
        # The box's frame, with its title in the first line, goes; what it says stays.
        lines = [x.strip(" │╭╮╰╯─") for x in caught.getvalue().splitlines() if "╭" not in x]
        what = " ".join(takewhile(bool, lines)) or "the options are wrong"
        fix = f"`puna {verb} --help` lists them"
        if "Perhaps you meant:" in lines:
            option = lines[lines.index("Perhaps you meant:") + 1].split()[0].rstrip(",")
            fix = f"did you mean {option}?"
        raise UserError(f"puna {verb}: {what}", fix) from None


def run(args: list[str]) -> int:
    """Run a recipe."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        recipe: tyro.conf.Positional[str]
        """A recipe file, or a shipped one by name, such as quickstart; a wrong name lists them."""
        dir: Path | None = None
        """Where the run goes; runs/NAME if not given. The same command goes on where it stopped."""
        set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
        """A setting on top of the recipe, e.g. --set rl.steps=50."""
        only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
        """A stage to run, with those that it comes from, instead of all of them."""
        dry_run: bool = False
        """Print every stage with all its settings, and stop."""
        tensorboard: bool = False
        """Write the metrics as TensorBoard events too."""
        quiet: bool = False
        """No progress lines."""
        unaudited: bool = False
        """Train on rewards that fail their audit."""
        unsafe: bool = False
        """Run code that a policy wrote without a sandbox: it can do whatever you can."""

    given = parse(Options, "run", args, "Run a recipe; a killed run goes on with the same command.")
    if given.dry_run:
        from puna.core.recipe import find_recipe, read_recipe
        from puna.run import resolve

        print(json.dumps(resolve(read_recipe(find_recipe(given.recipe), given.set)), indent=1))
        return 0
    _without_walls(given.unsafe)
    from puna.api import run as run_recipe

    show = "quiet" if given.quiet else "auto"
    sets = (*given.set, *(_unaudited(given.recipe, given.set) if given.unaudited else ()))
    done = run_recipe(
        given.recipe, given.dir, sets, only=given.only, progress=show, tensorboard=given.tensorboard
    )
    from rich.console import Console

    from puna.report.terminal import print_summary
    from puna.run import say_stopped

    print_summary(done.directory, Console())
    return say_stopped(done.stages)


def _unaudited(recipe: str, sets: Sequence[str]) -> list[str]:
    """The settings that let every stage with a reward train in spite of its audit."""
    from puna.core.recipe import find_recipe, read_recipe

    stages = read_recipe(find_recipe(recipe), sets).stages
    return [f"{s['id']}.unaudited=true" for s in stages if s.get("kind") in ("rl", "psv")]


def _without_walls(unsafe: bool) -> None:
    if unsafe:
        from puna.sandbox import choose

        choose("unsafe")


def env_settings(sets: Sequence[str]) -> dict[str, Any]:
    """`--set env.KEY=VALUE` as the environment's settings. Raises UserError for any other key."""
    from puna.core.config import parse_set

    settings = {}
    for text in sets:
        keys, value = parse_set(text)
        if len(keys) != 2 or keys[0] != "env":
            what = f"--set {text}: only the environment has settings here"
            raise UserError(what, "env.KEY=VALUE")
        settings[keys[1]] = value
    return settings


def evaluate(args: list[str]) -> int:
    """Score a policy on an environment."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        target: tyro.conf.Positional[str] = ""
        """A run's directory, a stage's, or a checkpoint's, in Hugging Face's layout or Meta's."""
        model: str = ""
        """Instead of TARGET: the address of an OpenAI-compatible endpoint."""
        env: str = "arithmetic"
        """An environment's name, or ./file.py."""
        n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 200
        """How many test tasks."""
        k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 1
        """How many episodes of each."""
        stage: str = ""
        """Which stage of a run; the last trained one if not given."""
        temperature: float | None = None
        """0 is greedy; if not given, 0 for k = 1 and 1 for k > 1."""
        max_tokens: int = 32
        """Tokens of one answer at most."""
        seed: int | None = None
        """Names the random streams of sampling; the run's own seed (else 0) if not given."""
        set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
        """A setting of the environment, e.g. --set env.terms=3."""
        name: str = ""
        """The model's name at the endpoint; asked for if not given."""
        api_key_env: str = ""
        """The environment variable that holds the endpoint's key."""
        agent: str = ""
        """The command of an outside program to act through (docs/outside-agents.md)."""
        concurrency: int = 16
        """Requests to the endpoint, or programs, at a time."""
        out: Path | None = None
        """Where results go; next to the run if not given."""
        rescore: bool = False
        """Judge the episodes stored in TARGET again, without a model, and list what differs."""
        json: bool = False
        """With --rescore: print JSON."""
        unsafe: bool = False
        """Run code that a policy wrote without a sandbox: it can do whatever you can."""

    given = parse(Options, "eval", args, "Score a policy; every score prints its interval.")
    if bool(given.target) == bool(given.model):
        raise UserError("puna eval: name a run or a model", "puna eval runs/NAME or --model URL")
    settings = env_settings(given.set)
    _without_walls(given.unsafe)
    if given.rescore:
        from puna.evals.rescore import print_rescored, rescore

        print_rescored(
            rescore(given.target, given.env, settings=settings, seed=given.seed), given.json
        )
        return 0
    from puna.evals.api import eval as evaluate_policy
    from puna.evals.api import print_result

    result = evaluate_policy(
        given.target or given.model,
        given.env,
        n=given.n,
        k=given.k,
        stage=given.stage,
        temperature=given.temperature,
        max_tokens=given.max_tokens,
        seed=given.seed,
        settings=settings,
        model_name=given.name,
        api_key_env=given.api_key_env,
        agent=given.agent,
        concurrency=given.concurrency,
        out=given.out,
        progress="auto",
    )
    print_result(result)
    return 0


def compare(args: list[str]) -> int:
    """Compare two results."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        a: tyro.conf.Positional[Path]
        """What `puna eval` left, a folder of such, a stage of a run, or a run (its last scored)."""
        b: tyro.conf.Positional[Path]
        """The other one; the difference is B minus A."""
        env: str = ""
        """Keep to one environment; all that both were evaluated on if not given."""
        role: str = ""
        """Whose score; the first role's if not given."""
        list: int = 0
        """List so many tasks on each side, those with the largest differences."""
        json: bool = False
        """Print JSON instead of text."""
        report: Path | None = None
        """Write a page about it to this file, e.g. --report difference.html."""

    given = parse(Options, "compare", args, "Compare two results task by task.")
    if given.list < 0:
        raise UserError(f"--list {given.list}: not a number of tasks", "give 0 or more")
    if given.report and given.report.suffix != ".html":
        raise UserError(f"--report {given.report}: not a page", "name it FILE.html")
    from puna.evals.compare import compare as compare_results

    found = compare_results(given.a, given.b, env=given.env, role=given.role)
    if given.report:
        from puna.report.comparison import write_comparison

        write_comparison(found, given.report, given.list)
    if given.json:
        print(json.dumps(found.to_json(given.list), allow_nan=False))
    else:
        print(found.text(given.list))
    return 0


def chat(args: list[str]) -> int:
    """Talk to a model."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        target: tyro.conf.Positional[Path]
        """A run's directory, a stage's, or a checkpoint's, in Hugging Face's layout or Meta's."""
        question: tyro.conf.Positional[str] = ""
        """Print the answer to this alone; if not given, prompts are typed, or read line by line."""
        stage: str = ""
        """Which stage of a run; the last trained one if not given."""
        temperature: float = 0.0
        """0 is greedy."""
        max_tokens: int = 64
        """Tokens of one answer at most."""
        image: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
        """An image to show with the first prompt; may be given several times."""

    given = parse(Options, "chat", args, "Talk to a model; /help inside tells the rest.")
    from puna.agents.console import talk

    return talk(**vars(given))


def serve(args: list[str]) -> int:
    """Serve models and runs over HTTP."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        target: tyro.conf.Positional[Path | None] = None
        """A run's directory, a stage's, or a checkpoint's, in Hugging Face's layout or Meta's."""
        stage: str = ""
        """The stage of a run that answers by default; the last trained one if not given."""
        host: str = "127.0.0.1"
        """The address to listen at; other machines can reach only others than this one."""
        port: int = 8000
        """0 takes any free one."""
        api_key_env: str = ""
        """The environment variable that holds the key every request must carry."""
        keys: Path | None = None
        """A file of keys, one of which every request must carry."""
        new_key: str = ""
        """Make a key of this name in the file of keys, print it, and end."""
        allow_origin: tuple[str, ...] = ()
        """Sites whose pages may ask, like https://app.example."""
        runs: Path | None = None
        """The folder whose runs the pages show; the one that TARGET is in if not given."""

    given = parse(Options, "serve", args, "Endpoints for clients, a chat, a page of runs.")
    from puna.serve.main import serve as serve_models

    serve_models(**vars(given))
    return 0


def soup(args: list[str]) -> int:
    """Average models."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        targets: tyro.conf.Positional[tuple[str, ...]]
        """Runs' directories, stages', or Hugging Face checkpoint directories of one shape."""
        out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
        """Where the soup goes: a new directory."""
        method: str = ""
        """uniform, weighted, best, greedy, soce (experts of weakly correlated categories), or its
        controls: experts (equal shares), random (as many random members)."""
        weights: str = ""
        """A share for each, e.g. --weights 1,2,1; equal shares if not given."""
        scores: Path | None = None
        """With soce and its controls: a CSV of scores, a line a model, a column a category."""
        tau: float = 0.3
        """With soce and its controls: categories that correlate by less are weakly correlated."""
        env: str = ""
        """An environment's name, or ./file.py: a soup worse than its best member is not kept."""
        by: str = ""
        """The tag of its tasks that makes categories, or several: skill+level; else the first."""
        n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 200
        """How many test tasks (the last ones) decide that; methods that search choose on half."""
        max_tokens: int = 32
        """Tokens of one answer at most."""
        set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
        """A setting of the environment, e.g. --set env.terms=3."""
        report: Path | None = None
        """Write a page (.html) about it there too."""

    given = parse(Options, "soup", args, "Average models; with --env a worse soup is not kept.")
    settings = env_settings(given.set)
    from puna.soup.console import make_soup, numbers, print_soup

    asked = vars(given) | {"weights": numbers(given.weights), "settings": settings}
    report, _ = asked.pop("report"), asked.pop("set")
    record = make_soup(**asked, progress="auto")
    print_soup(record, given.out)
    if report is not None:
        from puna.report.soups import write_soup

        write_soup(record, report)
    return 0


def plan(args: list[str]) -> int:
    """What a model takes in memory, and whether it fits."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        model: tyro.conf.Positional[str]
        """A preset's name, a config.json, a model's directory, a run's directory or a stage's."""
        precision: str = "bf16"
        """fp32, bf16, int8 or int4; with --train fp32 or bf16."""
        context: int | None = None
        """Tokens of a row; 8,192 if not given, or what the model takes."""
        batch: int = 1
        """Rows decoded together; with --train those of a micro-batch."""
        device: str = "here"
        """h100, h200, a100 or another name, a number of bytes such as 24GB, or this machine."""
        train: bool = False
        """Plan a training step instead of decoding."""
        lora: int = 0
        """Plan the training of adapters of this rank on frozen weights."""
        tiles: int = 0
        """Tiles of pictures in the rows together; a picture of 1024 x 768 pixels has 13."""
        stage: str = ""
        """Which stage of a run; the last trained one if not given."""
        json: bool = False
        """Print JSON instead of a table."""

    given = parse(Options, "plan", args, "What a model takes in memory by its shape; does it fit?")
    from puna.export.plan import plan as plan_memory

    found = plan_memory(**{k: v for k, v in vars(given).items() if k != "json"})
    if given.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print(found.text())
    return 0


def export(args: list[str]) -> int:
    """Write a model to pass on."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        model: tyro.conf.Positional[Path]
        """A run's directory, a stage's, a checkpoint, or a model's directory, also Meta's own."""
        out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
        """Where it goes: a new directory."""
        dtype: str = ""
        """float32, bfloat16 or float16; as the source if not given."""
        layout: str = "hf"
        """hf is what transformers loads; meta is params.json and consolidated.00.pth."""
        stage: str = ""
        """Which stage of a run; the last trained one if not given."""

    given = parse(
        Options, "export", args, "Write a model in a layout that others load; adapters are merged."
    )
    from puna.export.convert import export as export_model

    print(export_model(**vars(given)).text())
    return 0


def audit(args: list[str]) -> int:
    """Test a reward."""
    import tyro

    @dataclass(frozen=True)
    class Options:
        target: tyro.conf.Positional[str] = ""
        """An environment's name, ./file.py, a LIBRARY:NAME (LIBRARY:* for all), or proofs:FILES."""
        n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 12
        """Tasks of each split to probe; where luck is in question, more are drawn."""
        seed: int = 0
        """The environment's seed."""
        set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
        """A setting of the environment, e.g. --set env.terms=3."""
        probe: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
        """Ask this probe only; may be given several times."""
        judge: str = ""
        """Instead of TARGET: the address of a model that judges, to be tested as a judge."""
        rows: Path | None = None
        """With --judge: your labelled rows (JSONL: rubric, question, answer, label)."""
        name: str = ""
        """With --judge: the model's name; asked for if not given."""
        api_key_env: str = ""
        """With --judge: the environment variable that holds the endpoint's key."""
        out: Path | None = None
        """Write a page (.html), a table (.md) or records (.json) there too."""
        json: bool = False
        """Print JSON instead of a table."""
        unsafe: bool = False
        """Run code that a policy wrote without a sandbox: it can do whatever you can."""

    given = parse(Options, "audit", args, "Test a reward, or a judge, before you trust it.")
    if bool(given.target) == bool(given.judge):
        raise UserError(
            "puna audit: name an environment or a judge", "puna audit NAME or --judge URL"
        )
    _without_walls(given.unsafe)
    settings = env_settings(given.set)
    if given.judge:
        from puna.evals.judge import audit_judge

        found = [audit_judge(given.judge, given.name, given.api_key_env, given.rows)]
    else:
        from puna.gym.audit.many import audit_all

        found = audit_all(
            given.target, n=given.n, seed=given.seed, settings=settings, only=given.probe
        )
    from puna.gym.audit import show
    from puna.gym.audit.records import keep

    show(found if given.target.endswith(":*") else found[0], as_json=given.json)
    if given.out is not None:
        from puna.report.audits import write

        write(found, given.out)
    if not given.probe and not given.judge:
        for each in found:
            keep(each)
    return 0 if all(a.passed for a in found) else 1


def propose(args: list[str]) -> int:
    """Make new tasks."""
    from puna.evals.propose_console import Options, act

    given = parse(Options, "propose", args, "Make new tasks, each with a verifier that was tested.")
    return act(given, env_settings(given.set))


def propose_experiment(args: list[str]) -> int:
    """Make research tasks."""
    from puna.evals.propose_experiment import Options, act

    given = parse(Options, "propose experiment", args, "Research tasks made of a repository.")
    return act(given, env_settings(given.set))


def environments(args: list[str]) -> int:
    """List, show, try or write environments."""
    from puna.gym.console import environments as act

    return act(args)


def paper(args: list[str]) -> int:
    """List, run and judge replications of papers."""
    from puna.papers.console import Options, act

    return act(parse(Options, "paper", args, "Replications of published methods, claim by claim."))


def doctor(args: list[str]) -> int:
    """What this machine has and lacks."""
    if args and args[0] in ("-h", "--help"):
        print("usage: puna doctor\n\nWhat this machine has and lacks, and what that disables.")
        return 0
    if args:
        raise UserError(f"puna doctor takes no '{args[0]}'", "type puna doctor")
    from puna.core.doctor import examine
    from puna.sandbox.backends import checks

    return examine(checks())


VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "run": (run, "run a recipe: quickstart, shop, hackable, ... or your own"),
    "eval": (evaluate, "score a run, a checkpoint or an endpoint on an environment"),
    "compare": (compare, "say whether one result is better than another"),
    "chat": (chat, "talk to what you trained"),
    "serve": (serve, "an OpenAI-compatible endpoint, a chat page, a page of runs"),
    "soup": (soup, "average models; a soup worse than its best member is not kept"),
    "plan": (plan, "what a model takes in memory, and whether it fits"),
    "export": (export, "write a model in the layout of transformers, or of Meta"),
    "audit": (audit, "test an environment's reward before you trust it"),
    "propose": (propose, "make new tasks that are admitted only with a tested verifier"),
    "env": (environments, "list, show, try or write environments"),
    "paper": (paper, "replications of published methods: list, run, print the claims"),
    "doctor": (doctor, "what this machine has and lacks, and what that disables"),
}

NOUNS: dict[str, Callable[[list[str]], int]] = {"propose experiment": propose_experiment}
"""Nouns under a verb that have options of their own."""


def usage() -> str:
    """The text of `puna --help`."""
    lines = ["usage: puna VERB ...", "", "Puna raises Llama-style models into agents.", ""]
    lines += [f"  {verb:<8}{what}" for verb, (_, what) in VERBS.items()]
    lines += ["", "puna VERB --help tells more. Start here: puna run quickstart"]
    return "\n".join(lines)


def dispatch(args: list[str]) -> int:
    """Find the verb's function and call it."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        from puna import __version__

        print(f"puna {__version__}")
        return 0
    if args[0] not in VERBS:
        raise UserError(f"no verb '{args[0]}'", nearest(args[0], VERBS))
    noun = NOUNS.get(" ".join(args[:2]))
    return VERBS[args[0]][0](args[1:]) if noun is None else noun(args[2:])


def guarded(work: Callable[[], int | None]) -> int:
    """Exit status of `work`; a user's mistake is one line and status 2, a stopped stage 1."""
    try:
        return work() or 0
    except UserError as error:
        print(f"puna: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("puna: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read us has gone; Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PermissionError as error:
        print(f"puna: {error.strerror}: {error.filename}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from puna.core.stage import StageError

        if not isinstance(error, StageError):
            raise
        print(f"puna: {error}", file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb."""
    return guarded(lambda: dispatch(list(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
