"""Broken environments, third variant of each incident: other domains, mechanisms and scales."""
