"""Gymnasium's spaces as text: what an observation looks like, and how an action must be written.

A Text action is the message itself, character by character. Any other is JSON and nothing else:
Discrete an integer, MultiDiscrete a list of integers, Tuple a list, Dict an object with every key.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from gymnasium import spaces

from puna.core.errors import UserError
from puna.gym.tools import strict_json

KINDS = (spaces.Text, spaces.Discrete, spaces.MultiDiscrete, spaces.Tuple, spaces.Dict)


def refuse_unsayable(space: Any, where: str) -> None:
    """Raises UserError where `space` or a part of it is of another kind than the module says."""
    if not isinstance(space, KINDS):
        known = ", ".join(k.__name__ for k in KINDS)
        what = f"{where} is {type(space).__name__}, which has no text"
        raise UserError(what, f"wrap the environment so that it is made of {known}")
    if isinstance(space, spaces.Tuple | spaces.Dict):
        for part in space.values() if isinstance(space, spaces.Dict) else space:
            refuse_unsayable(part, where)


def write(space: Any, value: Any) -> str:
    """`value` of `space` as text: what `read` takes."""
    return str(value) if isinstance(space, spaces.Text) else json.dumps(_plain(space, value))


def _plain(space: Any, value: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _plain(part, value[key]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return [_plain(part, v) for part, v in zip(space, value, strict=True)]
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(value).tolist()
    return str(value) if isinstance(space, spaces.Text) else int(value)


def read(space: Any, text: str) -> Any:
    """The action that `text` writes. Raises ValueError saying what is wrong with it."""
    if isinstance(space, spaces.Text):
        return _element(space, text)
    try:
        value = strict_json(text)
    except ValueError:
        raise ValueError("it is not JSON") from None
    return _element(space, value)


def _element(space: Any, value: Any) -> Any:
    match space:
        case spaces.Tuple():
            _demand(type(value) is list and len(value) == len(space), space)
            return tuple(_element(part, v) for part, v in zip(space, value, strict=True))
        case spaces.Dict():
            _demand(type(value) is dict and set(value) == set(space), space)
            return {key: _element(part, value[key]) for key, part in space.items()}
        case spaces.MultiDiscrete():
            _demand(_shape(value) == space.shape, space)
            value = np.array(value, dtype=space.dtype)
        case spaces.Discrete():
            _demand(_is_integer(value), space)
        case _:
            _demand(type(value) is str, space)
    _demand(space.contains(value), space)
    return value


def _demand(holds: bool, space: Any) -> None:
    if not holds:
        raise ValueError(f"it is not {form(space)}")


def form(space: Any) -> str:
    """What an element of `space` looks like, in words."""
    match space:
        case spaces.Discrete():
            return f"an integer from {space.start} to {space.start + space.n - 1}"
        case spaces.MultiDiscrete():
            low, high = space.start.tolist(), (space.start + space.nvec - 1).tolist()
            return f"a JSON list of integers from {low} to {high}"
        case spaces.Tuple():
            return "a JSON list of " + ", then ".join(form(part) for part in space)
        case spaces.Dict():
            parts = ", ".join(f'"{key}": {form(part)}' for key, part in space.items())
            return f"a JSON object of {parts}"
    return f"a text of {space.min_length} to {space.max_length} characters"


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists of 64-bit integers; None for anything else."""
    if type(value) is not list:
        return () if _is_integer(value) else None
    inner = {_shape(v) for v in value}
    if len(inner) != 1 or (shape := inner.pop()) is None:
        return None
    return (len(value), *shape)


def _is_integer(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63
