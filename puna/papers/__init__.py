"""Replications of published methods, one folder a paper; `puna paper list` names them."""
