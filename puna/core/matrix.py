"""The variants of a stage: its own `matrix` joined with its parents' variants.

`combinations(stage, variants)` -> labels, table and parents of each variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.errors import UserError, nearest
from puna.core.fraction import fraction, most_parts

STAGE = {"id", "kind", "from", "rounds", "matrix"}
"""The keys of a stage that are no settings of its kind."""

Variants = dict[str, list[tuple[dict[str, Any], str]]]
"""The stages so far: labels and name of each variant."""


def whole(value: object) -> bool:
    """Whether `value` is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def array(stages: Sequence[Mapping[str, Any]], parts: int) -> list[dict[str, Any]]:
    """The combinations of labels other than the seed that are run: all, or one in `parts`.

    Raises UserError where the fraction would not keep the main effects apart.
    """
    if parts == 1:
        return [{}]
    axes: dict[str, list[Any]] = {}
    for stage in stages:
        for key, values in _matrix(stage).items():
            known = axes.setdefault(key, []) if key != "seed" else []
            known += [v for v in values if v not in known]
    sizes = [len(values) for values in axes.values()]
    found = fraction(sizes, parts)
    if found is None:
        told = ", ".join(f"{key} ({len(values)})" for key, values in axes.items())
        what = f"fraction is {parts}, which would confuse main effects of {told}"
        raise UserError(what, f"at most {most_parts(sizes)} keeps them apart")
    return [
        {key: values[level] for (key, values), level in zip(axes.items(), levels, strict=True)}
        for levels in found
    ]


def _matrix(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage's matrix: a list of values for each key, or a table of settings for each value.

    Raises UserError for anything else.
    """
    matrix: Mapping[str, Any] = stage.get("matrix", {})
    for key, values in matrix.items() if isinstance(matrix, Mapping) else [("", None)]:
        where = f"{stage['id']}.matrix.{key}"
        if not isinstance(values, list | Mapping):
            fix = "e.g. matrix.seed = [0, 1]"
            raise UserError(f"{stage['id']}.matrix must map keys to lists or tables", fix)
        if key == "seed" and not (isinstance(values, list) and all(map(whole, values))):
            raise UserError(f"{where} is {values!r}", "give whole numbers")
        for name, settings in values.items() if isinstance(values, Mapping) else ():
            if not isinstance(settings, Mapping):
                raise UserError(f"{where}.{name} is {settings!r}", "give a table of settings")
            if wrong := (STAGE - {"from"}) & settings.keys():
                raise UserError(f"{where}.{name} sets '{min(wrong)}'", "add a stage for that")
    return matrix


def _choices(stage: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Labels of each combination of a stage's own matrix, and the stage with its settings."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, dict(stage))]
    for key, values in _matrix(stage).items():
        out = []
        for labels, table in found:
            for value in values:
                if isinstance(values, Mapping):
                    chosen = _merged(table, values[value])
                else:
                    chosen = table if key == "seed" else {**table, key: value}
                out.append(({**labels, key: value}, chosen))
        found = out
    return found


def _merged(table: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with the values of `more`, table by table."""
    out = dict(table)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def combinations(
    stage: Mapping[str, Any], variants: Variants
) -> list[tuple[dict[str, Any], dict[str, Any], list[str]]]:
    """Labels, table and parents of each variant, those of one parent together."""
    out = []
    for own, table in _choices(stage):
        found: list[tuple[dict[str, Any], list[str]]] = [({}, [])]
        for parent in _parents(table, variants):
            found = [
                ({**labels, **theirs}, [*chosen, name])
                for labels, chosen in found
                for theirs, name in variants[parent]
                if all(labels.get(k, v) == v for k, v in theirs.items())
            ]
        out += [
            (place, ({**labels, **own}, table, chosen))
            for place, (labels, chosen) in enumerate(found)
            if all(labels.get(k, v) == v for k, v in own.items())
        ]
    return [variant for _, variant in sorted(out, key=lambda each: each[0])]


def _parents(stage: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """The ids in `from`. Raises UserError where one is no earlier stage."""
    parents = stage.get("from", [])
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents):
        raise UserError(f"stage '{stage['id']}': from is {parents!r}", 'e.g. from = ["sft"]')
    earlier = [name for name in known if name != stage["id"]]
    for parent in parents:
        if parent not in earlier:
            hint = nearest(parent, earlier)
            raise UserError(f"stage '{stage['id']}': no earlier stage '{parent}'", hint)
    return parents
