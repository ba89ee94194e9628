"""A counter with one clerk."""
