"""TRL's GRPOTrainer on a Puna environment with a tool; prints one JSON line.

Run by the interpreter of TRL's own environment: `.peers/trl/bin/python trl_run.py DIRECTORY STEPS`.
The model is a tiny Llama that has seen enough examples to call the tool now and then.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from puna.compat.trl import as_trl, reward

sys.path.insert(0, str(Path(__file__).parent))
from vault import Vault

SPECIAL = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<|pad|>")


def make_tokenizer() -> Any:
    """A token a byte, and the special ones of the chat template that TRL knows as Qwen's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(s, special=s[1] == "|", normalized=False) for s in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|pad|>", padding_side="left"
    )
    templates = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen3.jinja").read_text()
    return tokenizer


def examples(tokenizer: Any, game: type, rows: list[dict[str, Any]]) -> list[tuple[list[int], int]]:
    """Token ids of what the oracle would do, and where the assistant's part begins."""
    player = game()
    tools = [player.look, player.say]
    found = []
    for row in rows:
        player.reset(**row)
        box = int(row["prompt"][0]["content"][4])
        seen = player.look(box=box)
        arguments = {"name": "look", "arguments": {"box": box}}
        call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function",
                "function": arguments}]}  # fmt: skip
        answers = [call, {"role": "tool", "name": "look", "content": seen}]
        answers.append({"role": "assistant", "content": seen})
        for cut in (1, 3):
            told = [*row["prompt"], *answers[: cut - 1]]
            start = tokenizer.apply_chat_template(
                told, tools=tools, tokenize=False, add_generation_prompt=True
            )
            said = seen
            if cut == 1:
                said = f"<tool_call>\n{json.dumps(arguments)}\n</tool_call>"
            ids = tokenizer(start).input_ids
            found.append((ids + tokenizer(said + "<|im_end|>").input_ids, len(ids)))
    return found


def imitate(model: Any, rows: list[tuple[list[int], int]], steps: int) -> float:
    """A few steps of imitation; the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    loss = torch.zeros(())
    for step in range(steps):
        batch = rows[(8 * step) % len(rows) :][:8]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for i, (row, start) in enumerate(batch):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, start : len(row)] = ids[i, start : len(row)]
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return float(loss.detach())


def main() -> None:
    """Standard output gets the one line."""
    directory, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with contextlib.redirect_stdout(sys.stderr):
        print(json.dumps(run(directory, steps)), file=sys.__stdout__)


def run(directory: Path, steps: int) -> dict[str, Any]:
    """Imitate, train, and say what was seen."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows, game = as_trl(Vault(), "train", 32)
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    loss = imitate(model, examples(tokenizer, game, rows), 120)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward,
        environment_factory=game,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=str(directory), use_cpu=True, max_steps=steps, learning_rate=1e-3,
            per_device_train_batch_size=8, num_generations=4, max_completion_length=160,
            max_tool_calling_iterations=3, logging_steps=1, save_strategy="no", report_to="none",
            bf16=False, gradient_checkpointing=False, disable_tqdm=True, seed=0,
        ),
    )  # fmt: skip
    trainer.train()
    logs = [x for x in trainer.state.log_history if "reward" in x]
    changed = sum(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return {
        "trl": trl.__version__,
        "imitation_loss": loss,
        "rewards": [x["reward"] for x in logs],
        "calls": [x["tools/call_frequency"] for x in logs],
        "failures": [x["tools/failure_frequency"] for x in logs],
        "changed": changed,
    }


if __name__ == "__main__":
    main()
