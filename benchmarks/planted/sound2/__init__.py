"""Sound environments, second set: other domains and shapes."""
