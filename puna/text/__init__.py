"""Text to token ids and back: tokenizer, chat template, packing, corpus, compression baselines."""
