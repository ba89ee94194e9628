"""Fast paths, each with a plain PyTorch twin as its test oracle. Triton is imported when used."""
