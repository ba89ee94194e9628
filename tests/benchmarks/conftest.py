"""Environments for the tests; those that need a jail are skipped by name where there is none."""

from __future__ import annotations

import functools

import pytest

from puna.sandbox.backends import problem_with

problem = functools.cache(problem_with)


@pytest.fixture
def made():
    """Makes an environment of a class."""

    def make(cls):
        if cls.tier == "jail" and (why := problem("bubblewrap")):
            pytest.skip(f"{cls.name} needs a jail: {why}")
        return cls()

    return make
