"""What one GPU does with Llama-4-shaped and dense models; see `__main__`."""
