"""Graphs in the formats of Planetoid and of geom-gcn, from a folder the user names.

`read_graphs(Path("data"))` finds `ind.NAME.graph` and `NAME/out1_node_feature_label.txt` anywhere
below it. What is malformed is refused in one line that names file and row.
"""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import UserError

from .graphs import Graph, Ints, both_ways

NODES, EDGES = "out1_node_feature_label.txt", "out1_graph_edges.txt"
WORD_LISTS = ("film", "actor")  # geom-gcn writes this graph's features as numbers of words
LARGEST = 1 << 31  # of a node's id, a label, a feature's value
WIDEST = 100_000  # features of a node


def read_graphs(folder: Path) -> list[Graph]:
    """Every graph below `folder`, by name. Raises UserError where there is none, or a broken one.

    Directed edges become undirected, doubles and loops are dropped.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", "name one that holds graphs with --data")
    found = [
        *(planetoid(p.parent, p.name.split(".")[1]) for p in sorted(folder.rglob("ind.*.graph"))),
        *(geom_gcn(p.parent) for p in sorted(folder.rglob(NODES))),
    ]
    if not found:
        raise UserError(f"{folder} holds no graph", f"it needs ind.NAME.graph files or a {NODES}")
    names = [g.name for g in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{folder} holds two graphs '{name}'", "name a folder with one of them")
    return found


def planetoid(folder: Path, name: str) -> Graph:
    """A graph of Yang et al. 2016: `ind.NAME.{allx,ally,tx,ty,graph,test.index}`, unpickled safely.

    A node that is in no file has no words and no label.
    """
    paths = {part: folder / f"ind.{name}.{part}" for part in ("allx", "ally", "tx", "ty", "graph")}
    loaded = {part: _unpickle(path) for part, path in paths.items()}
    known, tested = (_rows(loaded[part], paths[part]) for part in ("allx", "tx"))
    if known.shape[1] != tested.shape[1]:
        words = f"{known.shape[1]} words"
        raise UserError(
            f"{paths['tx']}: {tested.shape[1]} words a row, {paths['allx']} has {words}"
        )
    index = _test_index(folder / f"ind.{name}.test.index", len(known), len(tested))
    nodes = max(len(known), int(index.max(initial=-1)) + 1)
    features_NF = np.zeros((nodes, known.shape[1]), dtype=np.float32)
    labels_N = np.full(nodes, -1, dtype=np.int64)
    features_NF[: len(known)], features_NF[index] = known, tested
    labels_N[: len(known)] = _one_hot(loaded["ally"], paths["ally"], len(known))
    labels_N[index] = _one_hot(loaded["ty"], paths["ty"], len(tested))
    return Graph(name, features_NF, _neighbours(loaded["graph"], paths["graph"], nodes), labels_N)


class _Csr:
    """Stands for a pickled scipy.sparse.csr_matrix: only its state is taken."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Type:
    """Stands for a pickled numpy.dtype: plain numbers only."""

    def __init__(self, code: str, *rest: object) -> None:
        if not re.fullmatch("[biuf][1248]", code):
            raise ValueError(f"it holds values of type {code}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">", "|") else "<"


class _Array:
    """Stands for a pickled numpy.ndarray, whose own reader trusts what it reads."""

    values: NDArray[Any]

    def __init__(self, *rest: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(raw, dtype=np.dtype(kind.order + kind.code))
        self.values = flat.reshape(shape, order="F" if by_columns else "C")


class _Safe(pickle.Unpickler):
    """Knows arrays of numbers, sparse matrices and dictionaries of lists, and nothing else."""

    known: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("scipy.sparse.csr", "csr_matrix"): _Csr,
        ("scipy.sparse._csr", "csr_matrix"): _Csr,
        ("collections", "defaultdict"): defaultdict,
        ("__builtin__", "list"): list,
        ("builtins", "list"): list,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.known[module, name]


def _unpickle(path: Path) -> Any:
    try:
        with open(path, "rb") as f:
            return _Safe(f, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a broken pickle may raise anything
        raise UserError(f"{path} is no pickle of Planetoid's: {error}") from error


def _rows(value: Any, path: Path) -> NDArray[np.float32]:
    """A matrix of finite numbers, dense, from what was pickled."""
    dense = _dense(value.state, path) if isinstance(value, _Csr) else _values(value)
    if dense.ndim != 2:
        raise UserError(f"{path} holds no matrix of numbers")
    if not dense.size:
        raise UserError(f"{path} holds an empty matrix")
    bad = ~np.isfinite(dense).all(1)
    if bad.any():
        raise UserError(f"{path} row {int(bad.argmax())}: a value is not a finite number")
    return dense.astype(np.float32)


def _values(value: Any) -> NDArray[Any]:
    """The numbers of a pickled array; none where it is something else, or an array without any."""
    return getattr(value, "values", np.zeros(0)) if isinstance(value, _Array) else np.zeros(0)


def _dense(state: Any, path: Path) -> NDArray[np.float32]:
    """The matrix of a sparse one's state (compressed rows), doubles added up."""
    try:
        height, width = (int(side) for side in state["_shape"])
        ends, columns, data = (_values(state[k]) for k in ("indptr", "indices", "data"))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} holds a broken sparse matrix: {error}") from error
    fits = ends.shape == (height + 1,) and columns.shape == data.shape == (len(data),)
    whole = ends.dtype.kind in "iu" and columns.dtype.kind in "iu"
    if not (fits and whole and ends[0] == 0 and ends[-1] == len(data) and width <= WIDEST):
        raise UserError(f"{path} holds a broken sparse matrix: its parts do not fit together")
    if (np.diff(ends) < 0).any():
        raise UserError(f"{path} row {int((np.diff(ends) < 0).argmax())} ends before it starts")
    row = np.repeat(np.arange(height), np.diff(ends))
    bad = (columns < 0) | (columns >= width)
    if bad.any():
        raise UserError(
            f"{path} row {row[bad.argmax()]}: column {columns[bad.argmax()]} of {width}"
        )
    out = np.zeros((height, width), dtype=np.float32)
    np.add.at(out, (row, columns), data.astype(np.float32))
    return out


def _one_hot(value: Any, path: Path, rows: int) -> Ints:
    """The column of each row's 1; -1 where a row has none."""
    table = _rows(value, path)
    if len(table) != rows:
        raise UserError(f"{path} has {len(table)} rows, its features have {rows}")
    bad = ~np.isin(table, (0, 1)).all(1) | (table.sum(1) > 1)
    if bad.any():
        raise UserError(f"{path} row {int(bad.argmax())}: a label is one 1 among zeros")
    return np.where(table.any(1), table.argmax(1), -1)


def _test_index(path: Path, known: int, count: int) -> Ints:
    """The node that each row of tx is; none that allx holds, none twice."""
    seen: dict[int, int] = {}
    for row, line in _lines(path):
        node = _whole(line.strip(), f"{path} line {row}")
        if node < known or node in seen:
            raise UserError(f"{path} line {row}: node {node} has features already")
        if node >= known + 10 * count:
            raise UserError(f"{path} line {row}: node {node} of about {known + count}")
        seen[node] = row
    if len(seen) != count:
        raise UserError(f"{path} has {len(seen)} lines, tx has {count} rows")
    return np.array(list(seen), dtype=np.int64)


def _neighbours(value: Any, path: Path, nodes: int) -> Ints:
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no dictionary of neighbours")
    pairs = []
    for node, others in value.items():
        for end in (node, *(others if isinstance(others, list) else (None,))):
            if type(end) is not int or not 0 <= end < nodes:
                raise UserError(f"{path} node {node!r:.40}: {end!r:.40} is none of {nodes} nodes")
        pairs += [(node, other) for other in others]
    return both_ways(np.array(pairs, dtype=np.int64), nodes)


def geom_gcn(folder: Path) -> Graph:
    """A graph of Pei et al. 2020: a file of nodes with features and labels, one of edges.

    The features of the graph film (Actor) are numbers of words, those of any other 0/1 or real
    values.
    """
    path, listed = folder / NODES, folder.name in WORD_LISTS
    rows: dict[int, tuple[NDArray[np.float32], int]] = {}
    for line, text in _table(path, 3):
        where = f"{path} line {line}"
        node, label = _whole(text[0], where), _whole(text[2], where)
        if node in rows:
            raise UserError(f"{where}: node {node} was there before")
        rows[node] = _numbers(text[1], where), label
        width = len(next(iter(rows.values()))[0])
        if not listed and len(rows[node][0]) != width:
            raise UserError(f"{where}: {len(rows[node][0])} features, the first node has {width}")
    if not rows or max(rows) != len(rows) - 1:
        missing = next(i for i in range(len(rows) + 1) if i not in rows)
        raise UserError(f"{path}: node {missing} is missing of {len(rows)}")
    ordered = [rows[node] for node in range(len(rows))]
    features = [row for row, _ in ordered]
    table_NF = _word_lists(features, path) if listed else np.stack(features)
    labels_N = np.array([label for _, label in ordered], dtype=np.int64)
    return Graph(folder.name, table_NF, _edges(folder / EDGES, len(rows)), labels_N)


def _edges(path: Path, nodes: int) -> Ints:
    pairs = []
    for line, text in _table(path, 2):
        ends = [_whole(part, f"{path} line {line}") for part in text]
        if max(ends) >= nodes:
            raise UserError(f"{path} line {line}: node {max(ends)} of {nodes}")
        pairs.append(ends)
    return both_ways(np.array(pairs, dtype=np.int64), nodes)


def _numbers(text: str, where: str) -> NDArray[np.float32]:
    try:
        values = np.array(text.split(","), dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if not (np.abs(values) < LARGEST).all():  # NaN is not less either
        raise UserError(f"{where}: a feature is not a finite number")
    return values.astype(np.float32)


def _word_lists(lists: list[NDArray[np.float32]], path: Path) -> NDArray[np.float32]:
    for node, row in enumerate(lists):
        if not ((row >= 0) & (row < WIDEST) & (row % 1 == 0)).all():
            raise UserError(f"{path} node {node}: a word is a whole number below {WIDEST}")
    out = np.zeros((len(lists), 1 + int(max(row.max() for row in lists))), dtype=np.float32)
    for node, row in enumerate(lists):
        out[node, row.astype(np.int64)] = 1.0
    return out


def _table(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """(line, columns) of each row below the header."""
    for line, text in _lines(path):
        parts = text.split("\t")
        if line == 1 and text.startswith("node_id"):
            continue
        if len(parts) != columns:
            raise UserError(f"{path} line {line}: {len(parts)} columns", f"it needs {columns}")
        yield line, parts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not empty."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: {error}") from error
    yield from ((i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip())


def _whole(text: str, where: str) -> int:
    """A whole number from 0, in plain digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < LARGEST):
        raise UserError(f"{where}: {text!r:.40} is not a whole number from 0")
    return int(text)
