"""Puna raises Llama-style models into agents: `puna.eval(...)` and `puna eval` are one function."""

__version__ = "0.1.0"
