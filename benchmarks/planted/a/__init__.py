"""Broken environments, first variant of each incident."""
