"""transformers' Trainer on rows of random tokens: `hf_trainer.py DIR STEPS ROWS LENGTH THREADS`."""

from __future__ import annotations

import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments


def main() -> None:
    directory, steps, rows, length, threads = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    vocab = model.config.get_text_config().vocab_size
    ids = torch.randint(0, vocab, (rows, length), generator=torch.manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in ids]
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=steps, per_device_train_batch_size=rows, learning_rate=1e-4,
            weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch", report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data).train()


if __name__ == "__main__":
    main()
