"""Run directories written by hand, in the very records that the stages leave."""

import hashlib
import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from puna.core.outcome import Infra, Scored, to_json
from puna.core.stats import paired_difference, summarize

ENV = {"name": "arithmetic", "version": "1.0", "hash": "c0ffee" * 10}
HOSTILE = '<script>alert("x")</script>&<b>\x00\x1b[31m\ud800\u202e</pre></details>'


def lines(path: Path, records) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"schema": 1, **r}) + "\n" for r in records))


def message(speaker, role, text):
    part = {"kind": "text", "text": text}
    return {"speaker": speaker, "role": role, "parts": [part]}


class RunWriter:
    """Writes the files of a run, one call a stage."""

    def __init__(self, directory: Path, title="Quickstart") -> None:
        self.dir, self.title, self.plan, self.journal = directory, title, [], []
        self.rng = np.random.default_rng(0)
        directory.mkdir(parents=True, exist_ok=True)

    def done(self, name, kind, parents, result, weights=True, **config):
        record = {
            "schema": 1,
            "id": name,
            "base": name.split("@")[0],
            "kind": kind,
            "labels": {},
            "config": config,
            "parents": dict.fromkeys(parents, "ab" * 32),
            "result": {"cpu_seconds": 61.5, "wall_seconds": 40.0, **result},
        }
        if weights:
            record["weights"] = hashlib.sha256(name.encode()).hexdigest()
        self.planned(name, kind, parents, **config)
        (self.dir / name).mkdir(exist_ok=True)
        (self.dir / name / "stage.json").write_text(json.dumps(record))

    def planned(self, name, kind, parents, **config):
        self.plan.append({"id": name, "kind": kind, "from": list(parents), "seed": 0, **config})

    def finish(self):
        record = {
            "schema": 1,
            "name": "quickstart",
            "title": self.title,
            "recipe": "recipes/quickstart.toml",
            "recipe_hash": "12" * 32,
            "seed": 0,
            "machine": {"device": "cpu", "dtype": "float32", "threads": 2, "workers": 2},
            "versions": {"python": "3.12.3", "puna": "0.1.0", "torch": "2.11.0"},
            "commit": "abc1234",
            "stages": self.plan,
        }
        (self.dir / "run.json").write_text(json.dumps(record))
        return self.dir

    def pretrain(self, name="pretrain", steps=300, hostile=""):
        records = []
        for step in range(1, steps + 1):
            loss = 2 + 4 * math.exp(-step / 60) + self.rng.normal(0, 0.05)
            records.append({"step": step, "loss": loss, "tokens": 8192, "cpu": step * 0.4})
            if step % 50 == 0:
                records[-1]["bits_per_byte"] = 2.1 + 3 * math.exp(-step / 80)
                records[-1]["minutes"] = step * 0.01
        lines(self.dir / name / "metrics.jsonl", records)
        text = "(self, name):\n        return self._name" + hostile
        lines(
            self.dir / name / "samples.jsonl",
            [
                {"step": s, "prompt": p, "text": f"foo{s}{text}"}
                for s in (10, 100, 200, 300)
                for p in ("def ", "import ")
            ],
        )
        bits = {
            "model": 2.214,
            "low": 2.151,
            "high": 2.277,
            "held_out_bytes": 400000,
            "xz": 2.391,
            "xz_with_training_text": 2.12,
            "byte_5gram": 2.62,
            "token_5gram": 2.48,
        }
        data = {"files": 1500, "bytes": 21_000_000, "held_out_files": 30, "digest": "de" * 32}
        self.done(
            name,
            "pretrain",
            [],
            {
                "steps": steps,
                "tokens": 8192 * steps,
                "parameters": 812_345,
                "bits_per_byte": bits,
                "data": data,
            },
            steps=steps,
            model="nano",
        )

    def sft(self, name="sft", parent="pretrain", held_out=True, done=True, best=0.62):
        records = []
        for step in range(1, 201):
            noise = self.rng.normal(0, 0.03)
            records.append({"step": step, "loss": 0.4 + 2 * math.exp(-step / 30) + noise})
            records[-1] |= {"tokens": 4000, "cpu": step * 0.3}
            if held_out and step % 25 == 0:
                records[-1]["held_out"] = best * (1 - math.exp(-step / 60))
        lines(self.dir / name / "metrics.jsonl", records)
        if not done:
            self.journal.append({"event": "start", "stage": name})
            self.planned(name, "sft", [parent])
            return
        result = {"steps": 200, "tokens": 800_000, "parameters": 812_345, "rows": 1000}
        result |= {"data_hash": "fa" * 32, "best_held_out": best if held_out else None}
        self.done(name, "sft", [parent], result, env="arithmetic")

    def rl(self, name="rl", parent="sft", hostile="", infra=0):
        records, episodes = [], []
        for step in range(1, 121):
            reward = 0.8 - 0.4 * math.exp(-step / 40) + self.rng.normal(0, 0.05)
            records.append({"step": step, "reward": reward, "loss": 0.0, "tokens": 900})
            records[-1] |= {"length_p50": 4 + self.rng.random(), "surprisal": 0.9 - step / 200}
            records[-1] |= {"scored": 128 - infra, "infra": infra, "invalid": 0, "cpu": step}
            if step % 20 == 0:
                records[-1]["held_out"] = 0.8 - 0.2 * math.exp(-step / 40)
                told = [message("env", "user", f"{step}+8=" + hostile)]
                told.append(message("agent", "assistant", f"{step + 8}" + hostile))
                outcome = to_json(Scored(1.0, True))
                episodes.append(
                    {"step": step, "task": f"train/{step}", "sample": 0, "transcript": told}
                )
                episodes[-1] |= {"outcomes": {"agent": outcome}, "ended": "done"}
        lines(self.dir / name / "metrics.jsonl", records)
        lines(self.dir / name / "episodes.jsonl", episodes)
        result = {"steps": 120, "tokens": 108_000, "parameters": 812_345, "env": "arithmetic"}
        self.done(name, "rl", [parent], result, env="arithmetic", steps=120)

    def eval(self, name, skills: dict[str, float], n=200, hostile="", infra=0, k=1):
        """Stage -> share of tasks it solves; the same tasks get easier for a better stage."""
        ease = np.random.default_rng(1).random(n)
        scores, differences, means = [], [], {}
        for stage, skill in skills.items():
            records, found, tagged = [], {}, {"terms=2": {}, "terms=3": {}}
            for i in range(n):
                right = bool(ease[i] * 0.8 + self.rng.random() * 0.2 < skill)
                outcome = (
                    Infra("worker died" + hostile) if i < infra else Scored(float(right), right)
                )
                row = [outcome] * k
                terms = str(2 + i % 2)
                task = f"test/{i}" + (hostile if i == n - 1 else "")
                said = f"{2 * i + 11 - (not right)}{hostile}"
                told = [message("env", "user", f"{i + 11}+{i}={hostile}")]
                told.append(message("agent", "assistant", said))
                records.append({"index": i, "k": k, "task": task, "tags": {"terms": terms}})
                records[-1] |= {
                    "outcomes": [{"agent": to_json(o)} for o in row],
                    "transcripts": [told] * k,
                    "usage": [{}] * k,
                    "ended": ["done"] * k,
                }
                found[task] = tagged[f"terms={terms}"][task] = row
            lines(self.dir / name / f"episodes-{stage}-arithmetic.jsonl", records)
            tags = {t: summarize(v, k).to_json() for t, v in tagged.items()}
            scores.append({"stage": stage, "env": ENV, "chance": 0.0, "by_tag": tags})
            scores[-1]["score"] = summarize(found, k).to_json()
            means[stage] = {
                t: float(o[0].value) for t, o in found.items() if isinstance(o[0], Scored)
            }
        names = list(skills)
        for a, b in combinations(names, 2):
            found = paired_difference(means[b], means[a]).to_json()
            differences.append({"env": "arithmetic", "from": a, "to": b, **found})
        result = {"scores": scores, "differences": differences}
        self.done(name, "eval", list(skills), result, weights=False, envs=["arithmetic"], n=n)


@pytest.fixture
def writer(tmp_path):
    return lambda **given: RunWriter(tmp_path / "run", **given)


@pytest.fixture
def quickstart(writer):
    """pretrain -> sft -> rl -> eval, all done, rl better than sft."""
    run = writer()
    run.pretrain()
    run.sft()
    run.rl()
    run.eval("eval", {"pretrain": 0.02, "sft": 0.55, "rl": 0.75})
    return run.finish()


@pytest.fixture
def seeds(writer):
    """Three seeds of sft and rl."""
    run = writer(title="Arithmetic")
    run.pretrain()
    for seed in range(3):
        run.sft(f"sft@seed={seed}")
        run.rl(f"rl@seed={seed}", f"sft@seed={seed}")
        skills = {f"sft@seed={seed}": 0.5, f"rl@seed={seed}": 0.7 + 0.03 * seed}
        run.eval(f"eval@seed={seed}", skills)
    return run.finish()
