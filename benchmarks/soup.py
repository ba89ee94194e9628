"""The same linear merge by `puna soup` and by mergekit, and how fast the disk copies.

`python benchmarks/soup.py --peer .peers/mergekit/bin/python` prints one JSON line a model size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# hidden, layers, intermediate, vocabulary: 1.1 M and 666 M parameters in bfloat16
SIZES = {"1m": (128, 4, 384, 1000), "666m": (2048, 8, 8192, 32000)}
WEIGHTS = (0.5, 0.2, 0.3)
SHARD = 500_000_000


def shapes(hidden: int, layers: int, inner: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama by their Hugging Face names."""
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(layers):
        stem = f"model.layers.{i}."
        for name in "qkvo":
            out[f"{stem}self_attn.{name}_proj.weight"] = (hidden, hidden)
        out |= {f"{stem}mlp.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
        out[f"{stem}mlp.down_proj.weight"] = (hidden, inner)
        out |= {f"{stem}{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
    return out | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def make(directory: Path, size: str, seed: int) -> Path:
    """A checkpoint of random weights, in shards."""
    import torch
    from safetensors.torch import save_file

    hidden, layers, inner, vocab = SIZES[size]
    generator = torch.Generator().manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in shapes(hidden, layers, inner, vocab).items():
        if sum(t.nbytes for t in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][name] = torch.randn(shape, generator=generator).to(torch.bfloat16)
    directory.mkdir(parents=True)
    places: dict[str, str] = {}
    for i, tensors in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, directory / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "intermediate_size": inner, "vocab_size": vocab,
        "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def apart(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` gives in a process of its own: a child's peak memory counts its parent's too."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def forget(*places: Path) -> None:
    """Let the system drop what it holds of these files, so that they are read from the disk."""
    for file in (f for place in places for f in place.rglob("*") if f.is_file()):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(models: Sequence[Path], out: Path) -> None:
    """The first model copied, and on the disk."""
    shutil.copytree(models[0], out)
    for file in out.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def run(command: Sequence[str | Path]) -> tuple[float, float]:
    """CPU-seconds and peak memory in bytes of a process. Raises RuntimeError where it fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([str(c) for c in command], stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace")[-2000:])
    return used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss


def timed(work: Callable[[Path], Any], models: Sequence[Path], out: Path) -> tuple[float, Any]:
    """Wall seconds of `work` on files that are not in memory, and what it gave."""
    shutil.rmtree(out, ignore_errors=True)
    forget(*models)
    begun = time.perf_counter()
    given = work(out)
    return time.perf_counter() - begun, given


def ours(models: Sequence[Path], out: Path) -> tuple[float, float]:
    """`puna soup`."""
    weights = ",".join(map(str, WEIGHTS))
    command: list[str | Path] = [sys.executable, "-m", "puna.cli", "soup", "-o", out]
    return run([*command, "--weights", weights, *models])


def theirs(peer: Path, models: Sequence[Path], out: Path) -> tuple[float, float]:
    """`mergekit-yaml` with its linear method, lazily loaded as for large models."""
    recipe = out.with_suffix(".yml")
    members = [
        {"model": str(m), "parameters": {"weight": w}} for m, w in zip(models, WEIGHTS, strict=True)
    ]
    plan = {"models": members, "merge_method": "linear", "dtype": "float32"}
    recipe.write_text(json.dumps(plan | {"out_dtype": "bfloat16"}))  # JSON is YAML
    command = peer.parent / "mergekit-yaml"
    return run(
        [command, recipe, out, "--no-copy-tokenizer", "--lazy-unpickle", "--no-write-model-card"]
    )


def differ(one: Path, two: Path) -> float:
    """The largest difference between two outputs, in units of the second's last place."""
    from safetensors import safe_open

    places: dict[str, Path] = {}
    for file in two.glob("*.safetensors"):
        with safe_open(file, framework="pt") as f:
            places |= dict.fromkeys(f.keys(), file)
    most = 0.0
    with safe_open(one / "model.safetensors", framework="pt") as a:
        for name in a.keys():  # noqa: SIM118 - it is no mapping
            with safe_open(places[name], framework="pt") as b:
                x, y = a.get_tensor(name).float(), b.get_tensor(name).float()
            most = max(most, float(((x - y).abs() / (y.abs() / 256).clamp(min=1e-30)).max()))
    return most


def measure(size: str, peer: Path | None, rounds: int, root: Path) -> dict[str, Any]:
    """Medians over rounds in which the sides take turns."""
    models = [apart(make, root / f"{size}-{i}", size, i) for i in range(len(WEIGHTS))]
    sides: dict[str, Callable[[Path], Any]] = {
        "copy": lambda out: copy(models, out),
        "puna": lambda out: ours(models, out),
    }
    if peer is not None:
        sides["mergekit"] = lambda out: theirs(peer, models, out)
    walls: dict[str, list[float]] = {name: [] for name in sides}
    used: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            out = root / f"{size}-{name}"
            taken, given = timed(work, models, out)
            walls[name].append(taken)
            used[name].append(given)
    wall = {name: statistics.median(each) for name, each in walls.items()}
    one = sum(f.stat().st_size for f in models[0].iterdir())
    largest = 2 * SIZES[size][3] * SIZES[size][0]
    found: dict[str, Any] = {
        "size": size,
        "members": len(models),
        "gigabytes_each": one / 1e9,
        "wall_s": wall,
        "cpu_s": {n: statistics.median(u[0] for u in used[n]) for n in used if n != "copy"},
        "peak_mb": {n: max(u[1] for u in used[n]) / 1e6 for n in used if n != "copy"},
        "largest_tensor_mb": largest / 1e6,
        # Bytes read and written a second, beside those of a copy.
        "of_copy_rate": (len(models) + 1) / 2 * wall["copy"] / wall["puna"],
    }
    if peer is not None:
        found["wall_of_mergekit_over_puna"] = wall["mergekit"] / wall["puna"]
        found["cpu_of_mergekit_over_puna"] = found["cpu_s"]["mergekit"] / found["cpu_s"]["puna"]
        outs = (root / f"{size}-{name}" for name in ("puna", "mergekit"))
        found["units_in_the_last_place"] = apart(differ, *outs)
    return found


def main() -> None:
    """Measure each size and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="python of mergekit's environment")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure")
    given = parser.parse_args()
    for size in given.sizes.split(","):
        with tempfile.TemporaryDirectory(dir=given.dir) as root:
            print(json.dumps(measure(size, given.peer, given.rounds, Path(root))), flush=True)


if __name__ == "__main__":
    main()
