"""UniPrompt (arXiv 2509.22416): graph prompts for any pretrained graph neural network."""
