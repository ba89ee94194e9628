"""Tests of the models room; a package, so that its tests can share tiny models."""
