"""Sound environments, fourth set: other domains and shapes."""
