"""TRL's GRPOTrainer on the job that a spec describes; prints one JSON line of costs and rewards.

`PEER/bin/python benchmarks/peers/trl_grpo.py benchmarks/specs/grpo_164k.json '{"seed": 1}'`, with
the environment of requirements-trl.txt; `-` reads the spec from standard input.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPORTED = """
    beta epsilon epsilon_high delta loss_type scale_rewards importance_sampling_level
    num_iterations steps_per_generation num_generations per_device_train_batch_size
    gradient_accumulation_steps learning_rate lr_scheduler_type warmup_steps optim
    adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm temperature top_p top_k
    min_p repetition_penalty bf16 gradient_checkpointing mask_truncated_completions
    entropy_coef disable_dropout
"""
DTYPES = ("fp32", "bf16", "bf16-autocast")


def load_spec(arguments: list[str]) -> dict[str, Any]:
    """The JSON object in the file `arguments[0]` names, updated with that in `arguments[1]`."""
    if not 1 <= len(arguments) <= 2:
        sys.exit("usage: trl_grpo.py SPEC.json|- [JSON of changed fields]")
    source = sys.stdin.read() if arguments[0] == "-" else Path(arguments[0]).read_text()
    spec: dict[str, Any] = json.loads(source)
    changes: dict[str, Any] = json.loads(arguments[1]) if len(arguments) == 2 else {}
    if unknown := changes.keys() - spec.keys():
        sys.exit(f"the spec has no field {sorted(unknown)}")
    spec |= changes
    if spec["dtype"] not in DTYPES:
        sys.exit(f"dtype {spec['dtype']!r} is none of {DTYPES}")
    if not 1 <= spec["warmup_steps"] < spec["steps"]:
        sys.exit("warmup_steps must be 1 or more, and fewer than steps")
    if spec["reward"] != "even_ids":
        sys.exit(f"reward {spec['reward']!r} is not even_ids, the only one")
    return spec


def quiet_environment(threads: int) -> None:
    """One place for what must be set before torch and the Hub client are imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


class Curve:
    """The share of even token ids; also keeps each step's mean and how many tokens it paid for."""

    __name__ = "even_ids"

    def __init__(self, new_tokens: int) -> None:
        self.new_tokens = new_tokens
        self.rewards: list[float] = []
        self.tokens: list[int] = []

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths = {len(ids) for ids in completion_ids}
        assert lengths == {self.new_tokens}, f"completions of unequal length: {lengths}"
        values = [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]
        self.rewards.append(sum(values) / len(values))
        self.tokens.append(sum(len(ids) for ids in completion_ids))
        return values


def build(spec: dict[str, Any], checkpoint: Path, output: Path, curve: Curve) -> Any:
    """The trainer, every setting that decides cost or result named."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    texts = json.loads((checkpoint / "prompts.json").read_text())["texts"][: spec["prompts"]]
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in texts] * spec["steps"]
    config = GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        seed=spec["seed"],
        max_steps=spec["steps"],
        per_device_train_batch_size=spec["completions"],
        gradient_accumulation_steps=1,
        num_generations=spec["completions"] // spec["prompts"],
        max_completion_length=spec["new_tokens"],
        temperature=spec["temperature"],
        num_iterations=1,
        shuffle_dataset=False,
        beta=spec["beta"],
        epsilon=spec["epsilon"],
        loss_type=spec["loss_type"],
        scale_rewards=spec["scale_rewards"],
        learning_rate=spec["learning_rate"],
        lr_scheduler_type=spec["lr_schedule"],
        warmup_steps=0,
        adam_beta1=spec["adam_betas"][0],
        adam_beta2=spec["adam_betas"][1],
        adam_epsilon=spec["adam_epsilon"],
        weight_decay=spec["weight_decay"],
        max_grad_norm=spec["max_grad_norm"],
        # On by default in TRL; off is faster here, and a peer is measured at its best.
        gradient_checkpointing=False,
        bf16=spec["dtype"] == "bf16-autocast",
        model_init_kwargs={"dtype": "bfloat16" if spec["dtype"] == "bf16" else "float32"},
        logging_steps=spec["steps"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = GRPOTrainer(
        model=str(checkpoint),
        reward_funcs=curve,
        args=config,
        train_dataset=Dataset.from_list(rows),
    )
    # No id ends a completion: sampling is from the plain softmax, and all lengths are equal.
    trainer.eos_token_ids = [-1]
    trainer.generation_config.eos_token_id = None
    return trainer


def measure(trainer: Any) -> dict[str, list[float]]:
    """Trains; CPU-seconds and wall seconds at each step's end, CPU-seconds inside generate()."""
    from transformers import TrainerCallback

    marks: dict[str, list[float]] = {"cpu": [], "wall": [], "generate": []}

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            # train() has by now copied the tokenizer's end of turn to where generate() looks.
            trainer.model.generation_config.eos_token_id = None

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks["cpu"].append(time.process_time())
            marks["wall"].append(time.perf_counter())

    generate = trainer.model.generate

    def timed(*arguments: Any, **keywords: Any) -> Any:
        start = time.process_time()
        result = generate(*arguments, **keywords)
        marks["generate"].append(time.process_time() - start)
        return result

    trainer.model.generate = timed
    trainer.add_callback(Clock())
    trainer.train()
    return marks


def settings(trainer: Any) -> dict[str, Any]:
    """What was in force, read back from the trainer, and what no option names."""
    found = {name: getattr(trainer.args, name) for name in REPORTED.split()}
    return {key: getattr(value, "value", value) for key, value in found.items()} | {
        "advantage": "(reward - group mean) / (group std with n - 1, + 1e-4)",
        "loss": "-min(ratio * A, clip(ratio) * A), mean over all completion tokens of the batch",
        "old_log_probs": "the forward pass of the update itself, so that every ratio is 1",
        "stop_ids": [],
        "sampling_rng": "torch's global generator",
        "weights_dtype": str(trainer.model.dtype),
        "attention": trainer.model.config._attn_implementation,
    }


def run(spec: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Runs the job with its files in `directory`, and returns what is to be printed."""
    start = time.process_time()
    import torch
    import transformers
    import trl
    from trl import GRPOTrainer  # noqa: F401 - trl loads its trainers when they are named

    import_cpu = time.process_time() - start
    torch.set_num_threads(spec["threads"])
    from tiny_llama import make_checkpoint

    checkpoint = Path(spec["checkpoint"] or directory / "checkpoint")
    if not (checkpoint / "config.json").exists():
        make_checkpoint(checkpoint, spec["shape"], spec["seed"], spec["prompts"])
    weights = (checkpoint / "model.safetensors").read_bytes()
    curve = Curve(spec["new_tokens"])
    trainer = build(spec, checkpoint, directory / "output", curve)
    marks = measure(trainer)
    assert {len(values) for values in marks.values()} == {spec["steps"]}
    first, steps = spec["warmup_steps"], spec["steps"] - spec["warmup_steps"]
    cpu = [b - a for a, b in zip(marks["cpu"], marks["cpu"][1:], strict=False)][first - 1 :]
    return {
        "peer": "trl",
        "cpu_seconds_per_step": sum(cpu) / steps,
        "cpu_seconds_per_step_median": sorted(cpu)[len(cpu) // 2],
        "cpu_seconds_per_step_generate": sum(marks["generate"][first:]) / steps,
        "cpu_seconds_by_step": [round(value, 5) for value in cpu],
        "wall_per_step": (marks["wall"][-1] - marks["wall"][first - 1]) / steps,
        "import_cpu_seconds": import_cpu,
        "rewards": [round(value, 6) for value in curve.rewards],
        "tokens_per_step": curve.tokens[-1],
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest(),
        "prompt_tokens": len(json.loads((checkpoint / "prompts.json").read_text())["ids"][0]),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "spec": spec,
        "settings": settings(trainer),
        "versions": {
            "trl": trl.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def main() -> None:
    """Standard output gets the one line; whatever the peer prints goes to standard error."""
    spec = load_spec(sys.argv[1:])
    quiet_environment(spec["threads"])
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(sys.stderr):
        result = run(spec, Path(directory))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
