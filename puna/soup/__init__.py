"""Merging models of one shape: an average of checkpoints, kept only where it is not worse."""
