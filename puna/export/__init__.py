"""What leaves a model for elsewhere: so far the plan of its memory. `puna plan llama3-8b`."""
