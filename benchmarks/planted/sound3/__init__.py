"""Sound environments, third set: other domains and shapes."""
