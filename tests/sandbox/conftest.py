"""Jails for the tests; skipped by name where bubblewrap does not work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from puna.sandbox import Sandbox
from puna.sandbox.backends import problem_with
from puna.sandbox.bubblewrap import Bubblewrap
from puna.sandbox.process import Unsafe


@pytest.fixture(scope="session")
def _bubblewrap_works() -> None:
    if problem := problem_with("bubblewrap"):
        pytest.skip(problem)


@pytest.fixture(scope="session")
def jail(_bubblewrap_works: None) -> Iterator[Bubblewrap]:
    """One keeper for all tests that do not break it."""
    with Bubblewrap(at_once=2) as sandbox:
        yield sandbox


@pytest.fixture
def own_jail(_bubblewrap_works: None) -> Iterator[Bubblewrap]:
    """A keeper for one test."""
    with Bubblewrap(at_once=2) as sandbox:
        yield sandbox


@pytest.fixture(params=["bubblewrap", "unsafe"])
def backend(request: pytest.FixtureRequest) -> Sandbox:
    """What every backend must do alike."""
    if request.param == "bubblewrap":
        return request.getfixturevalue("jail")
    return Unsafe()
