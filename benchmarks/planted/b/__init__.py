"""Broken environments, second variant of each incident: other domains, other mechanisms."""
