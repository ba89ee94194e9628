"""recipes/h200.toml in small: seconds instead of minutes, the smallest model, on a processor."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_run import REPOSITORY, metrics, run

from puna.core.recipe import read_recipe
from puna.run import resolve

RECIPE = REPOSITORY / "recipes" / "h200.toml"
SMALL = {
    "machine.threads": 1, "machine.dtype": "float32", "pretrain.minutes": 0.1,
    "pretrain.model.size": 1, "pretrain.vocab": 320, "pretrain.row_length": 64,
    "pretrain.batch_tokens": 256, "pretrain.eval_every": 5, "pretrain.eval_bytes": 2000,
    "pretrain.sample_every": 0, "pretrain.save_every": 5, "pretrain.steps": 1_000_000,
    "pretrain.optim.warmup": 2,
}  # fmt: skip


def folder(root: Path) -> Path:
    """Forty files that differ and have much in common."""
    for i in range(40):
        lines = [f"line {j} of file {i} says that {j * i} is {j} times {i}\n" for j in range(20)]
        (root / f"{i}.txt").write_text("".join(lines))
    return root


def test_the_dial_says_what_the_recipe_does_not() -> None:
    (stage,) = resolve(read_recipe(RECIPE))
    assert (stage["minutes"], stage["batch_tokens"], stage["row_length"]) == (25, 131_072, 1024)
    assert (stage["optim"]["kind"], stage["optim"]["lr"]) == ("muon", 0.0018)
    assert (stage["model"]["hidden_size"], stage["model"]["num_experts"]) == (768, 0)
    assert stage["with_baselines"]


def test_it_ends_with_its_time_and_shows_bits_per_byte_by_minutes(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    sets = [f"{key}={str(value).lower()}" for key, value in SMALL.items()]
    sets.append(f"pretrain.data={folder(tmp_path / 'text')}")
    done = run(RECIPE, tmp_path / "run", *sets)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run/pretrain/stage.json").read_text())
    result, figures = record["result"], metrics(tmp_path / "run", "pretrain")
    said = f"vocabulary {result['vocabulary']}, {result['parameters']:,} parameters; at most"
    assert f"size 1: 1 layers of width 64, 2 heads, {said}" in done.err
    assert 6 <= result["wall_seconds"] < 60
    assert result["steps"] == max(figures) < 100_000
    assert figures[max(figures)]["lr"] < 0.1 * max(f["lr"] for f in figures.values())
    curve = [(f["minutes"], f["bits_per_byte"]) for f in figures.values() if "minutes" in f]
    assert len(curve) == max(figures) // 5
    assert [at for at, _ in curve] == sorted(at for at, _ in curve)
    assert curve[-1][0] <= result["wall_seconds"] / 60
    assert curve[-1][1] < curve[0][1] - 0.3
    assert result["bits_per_byte"]["xz"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "bits per byte, by minutes (dashed: best baseline)" in page
