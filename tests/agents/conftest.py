"""Fixtures shared with other rooms."""

from clerk import clerk  # noqa: F401 - a fixture
