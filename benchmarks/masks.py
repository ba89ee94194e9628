"""Every choice of up to three functions of a research task's source: originals 1, stubs 0.

`python -m benchmarks.masks use user_model uniprompt tabulate --jobs 2`, one JSON line a source.

Tens of thousands of choices cannot all be run. What is run: the original bodies once, every
function missing alone (and whatever does not end as follows), and a sample of choices. The rest
follows:
- Original bodies: put back, they give the very files of the source, byte for byte. That is looked
  at for every function and every two of a file; bodies that do not overlap have nothing to do with
  each other, nor have files.
- Stubs: a program is the same as the original up to the first call of a missing function. Where
  that function missing alone ends the program with its NotImplementedError, it does among others.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

from puna.envs.experiment import masking
from puna.envs.experiment.copies import twins
from puna.envs.experiment.env import Experiment, ExperimentConfig
from puna.envs.experiment.masking import decoded
from puna.envs.experiment.research import Research
from puna.gym.loop import Context
from puna.gym.proposer import UnfitError
from puna.gym.trajectory import Episode

MOST = 3
OPEN = 100  # choices that do not follow, to be run
TABLES = Path(__file__).parent / "specs" / "tables.py"
_RAISED = re.compile(
    r'File "[^"\n]*?([^/"\n]+)", line \d+, in (\S+)\n(?:    .*\n)*NotImplementedError'
)


class Masks:
    """A source, its functions, and what each does where it alone is missing."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.env = Experiment(ExperimentConfig(**settings))
        self.proposer = self.env.proposer()
        self.lab, self.source = self.proposer.lab, self.proposer.source
        called = self.lab.traced.called
        self.names = sorted(self.proposer.functions, key=called.index)  # by their first call

    def research(self, names: Sequence[str]) -> Research:
        return Research(self.source, tuple(names), self.lab.gold[0], self.lab.traced.read)

    def value(self, names: Sequence[str], original: bool) -> tuple[float, str]:
        """What the environment's judge gives for original bodies, or for stubs, and why."""
        research = self.research(names)
        files = self.source.files if original else research.given
        handed_in = Episode("mask", (), {path: files[path] for path in research.paths})
        (verdict,) = self.env.judge([handed_in], {"research": research}, Context())
        outcome = verdict["agent"]
        return getattr(outcome, "value", math.nan), str(outcome)

    def alone(self, name: str) -> str:
        """How the command ends without this function: "raised" by it, "other" or "right"."""
        files = self.research([name]).given
        done = self.lab.run(self.source.command, files)
        raised = _RAISED.findall(done.stderr.decode(errors="replace"))
        path, _, inner = name.partition(":")
        wanted = path.rpartition("/")[2], inner.partition("#")[0].rpartition(".")[2]
        if not done.ok and not done.reason and raised and raised[-1] == wanted:
            return "raised"
        return "other" if self.value([name], False)[0] == 0 else "right"

    def within_files(self) -> tuple[set[tuple[str, ...]], list[str]]:
        """Functions, and pairs within a file, that make tasks; and what is not put back."""
        fit, differ = set(), []
        for path in {name.partition(":")[0] for name in self.names}:
            here = [n for n in self.names if n.partition(":")[0] == path]
            text = decoded(self.source.files[path])[0]
            for number in (1, 2):
                for names in combinations(here, number):
                    try:
                        given = self.proposer.draft_of(names, "x").task.hidden["research"].given
                    except UnfitError:
                        continue
                    fit.add(names)
                    inner = [name.partition(":")[2] for name in names]
                    if masking.spliced(decoded(given[path])[0], text, inner) != text:
                        differ.append(" ".join(names))
        return fit, differ


def examine(settings: dict[str, Any], jobs: int, sample: int) -> dict[str, Any]:
    """All of a source. `wrong` names what does not hold."""
    begun, masks, wrong = time.perf_counter(), Masks(settings), []
    pool = ThreadPoolExecutor(jobs)
    fit, differ = masks.within_files()
    own = [name for name in masks.names if (name,) in fit]
    paired = [name for name in own if twins(masks.source, name)]  # their twins are emptied as well
    ends = dict(zip(own, pool.map(masks.alone, own), strict=True))
    wrong += [f"a stub is right: {name}" for name, end in ends.items() if end == "right"]
    choices, open_ = Counter[int](), []
    everything: list[tuple[str, ...]] = []
    for number in range(1, MOST + 1):
        for names in combinations(own, number):
            parts: dict[str, list[str]] = {}
            for name in names:
                parts.setdefault(name.partition(":")[0], []).append(name)
            if all(pair in fit for part in parts.values() for pair in combinations(part, 2)):
                choices[number] += 1
                everything.append(names)
                if number > 1 and ends[names[0]] != "raised":
                    open_.append(names)
    drawn = random.Random(0).sample(everything, min(sample, len(everything)))
    followed = len(open_)
    open_ = random.Random(1).sample(open_, min(OPEN, followed))
    asked = [(names, True) for names in (own[:1], *([name] for name in paired), *drawn)]
    asked += [(names, False) for names in (*drawn, *open_)]
    verdicts = pool.map(lambda given: masks.value(*given), asked)
    for (names, original), (value, why) in zip(asked, verdicts, strict=True):
        if value != original:
            what = "originals" if original else "stubs"
            wrong.append(f"{what} of {' '.join(names)} earn {value}: {why}")
    return {
        "functions": len(own),
        "choices": dict(choices),
        "within_files": len(fit),
        "put_back_differ": differ,
        "alone": dict(Counter(ends.values())),
        "not_raised": [name for name, end in ends.items() if end != "raised"],
        "do_not_follow": followed,
        "of_these_run": len(open_),
        "sample": len(drawn),
        "with_twins": len(paired),
        "wrong": wrong,
        "seconds": round(time.perf_counter() - begun),
    }


def settings_of(name: str, folder: Path) -> dict[str, Any]:
    """A paper's, or those of the package tabulate, copied to `folder` with a command."""
    if name != "tabulate":
        return {"paper": name}
    import tabulate

    place, skip = Path(tabulate.__file__).parent, shutil.ignore_patterns("__pycache__")
    shutil.copytree(place, folder / "tabulate", ignore=skip)
    shutil.copy(TABLES, folder / "run.py")
    return {"repo": str(folder), "command": "python3 run.py 0", "second": "python3 run.py 1"}


def main() -> None:
    """Prints a line a source; exit 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sample", type=int, default=6)
    given = parser.parse_args()
    failed = False
    for name in given.sources:
        with tempfile.TemporaryDirectory() as folder:
            found = examine(settings_of(name, Path(folder)), given.jobs, given.sample)
        failed |= bool(found["wrong"] or found["put_back_differ"])
        print(json.dumps({"source": name, **found}), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
