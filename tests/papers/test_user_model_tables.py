"""Tables of vectors: three formats say the same, and each mistake is one line with file and row."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.papers.user_model.tables import Table, read_table, write_table

pa = pytest.importorskip("pyarrow")


def columns(users: int = 12, windows: int = 2) -> dict[str, list[Any]]:
    """A good table, rows in no order; user 7's second window is all sevens."""
    rows = [(u, w) for w in reversed(range(windows)) for u in range(users)]
    return {
        "user": [f"u{u:02d}" for u, _ in rows],
        "window": [w for _, w in rows],
        "e0": [u + 0.5 * w if u != 7 else 7.0 for u, w in rows],
        "e1": [-1.0 * u if u != 7 else 7.0 for u, _ in rows],
        "label_paid": [u % 2 for u, _ in rows],
        "content_sent": [u * w for u, w in rows],
        "nuisance_length": [10 + w for _, w in rows],
        "group_country": ["de" if u < 5 else "at" for u, _ in rows],
    }


def save(path: Path, table: dict[str, list[Any]], nested: bool = False) -> Path:
    if nested:
        vectors = [list(pair) for pair in zip(table["e0"], table["e1"], strict=True)]
        table = {k: v for k, v in table.items() if k not in ("e0", "e1")} | {"embedding": vectors}
    if path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])
    elif path.suffix == ".npz":
        arrays: dict[str, Any] = {name: np.array(values) for name, values in table.items()}
        np.savez(path, **arrays)
    else:
        import pyarrow.parquet as pq

        pq.write_table(pa.table(table), path)
    return path


def same(a: Table, b: Table) -> None:
    for name in ("names_N", "owner_R", "vectors_RD"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("contents_RC", "nuisances_RC", "labels_N", "groups_N"):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key])


def test_three_formats_say_the_same_in_order_of_users(tmp_path: Path) -> None:
    kinds = [("a.csv", False), ("a.npz", False), ("b.npz", True), ("a.parquet", False)]
    kinds.append(("b.parquet", True))
    first, *others = (read_table(save(tmp_path / n, columns(), nested)) for n, nested in kinds)
    assert first.names_N.tolist() == [f"u{u:02d}" for u in range(12)]
    assert first.owner_R.tolist() == [u for u in range(12) for _ in range(2)]
    assert first.place_R().tolist() == [0, 1] * 12
    assert first.vectors_RD[6:8].tolist() == [[3.0, -3], [3.5, -3]]
    assert first.vectors_RD[15].tolist() == [7, 7]
    assert first.labels_N["paid"].tolist() == [0, 1] * 6
    assert first.contents_RC["sent"][:6].tolist() == [0, 0, 0, 1, 0, 2]
    assert first.groups_N["country"].tolist() == ["de"] * 5 + ["at"] * 7
    assert first.mean_by_user(first.vectors_RD)[3].tolist() == [3.25, -3]
    for other in others:
        same(first, other)


def test_a_written_table_is_read_as_it_was(tmp_path: Path) -> None:
    table = read_table(save(tmp_path / "a.csv", columns(15, 3)))
    write_table(tmp_path / "b.npz", table)
    same(table, read_table(tmp_path / "b.npz"))


def test_some_users_alone() -> None:
    vectors = np.arange(10.0)[:, None]
    table = Table(
        np.array(["a", "b", "c"]), np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2]), vectors,
        labels_N={"x": np.array([5.0, 6, 7])},
    )  # fmt: skip
    some = table.only(np.array([0, 2]))
    assert some.names_N.tolist() == ["a", "c"]
    assert some.owner_R.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert some.vectors_RD[:, 0].tolist() == [0, 1, 5, 6, 7, 8, 9]
    assert some.labels_N["x"].tolist() == [5, 7]


def spoil(name: str, row: int, value: Any) -> dict[str, list[Any]]:
    table = columns()
    table[name][row - 1] = value
    return table


MISTAKES = [
    (spoil("e1", 3, "nan"), "row 3: e1 is 'nan'; give a finite number"),
    (spoil("e1", 3, "inf"), "row 3: e1 is 'inf'; give a finite number"),
    (spoil("e1", 3, "1e39"), "row 3: e1 is '1e39'; give a finite number"),
    (spoil("e0", 4, "x"), "row 4: e0 is 'x'; give a finite number"),
    (spoil("e0", 4, ""), "row 4: e0 is empty; give a finite number"),
    (spoil("user", 2, " "), "row 2: user is ' '; give a text or an integer"),
    (spoil("window", 5, "b"), "row 5: window is 'b'; give a finite number"),
    (
        spoil("user", 2, "u00"),
        "row 2: user 'u00', window 1 again; it was in row 1; give each window once, numbered in "
        "'window'",
    ),
    (
        spoil("label_paid", 13, 1),
        "row 13: label_paid is 1.0, in row 1 of the same user 0.0; labels and groups are a "
        "user's: repeat it",
    ),
    (spoil("label_paid", 13, "no"), "row 13: label_paid is 'no'; give a finite number"),
    (spoil("group_country", 9, ""), "row 9: group_country is empty; give a text or an integer"),
    ({**columns(), "label_": [0] * 24}, ": unknown column 'label_'"),
    ({**columns(), "lable_x": [0] * 24}, ": unknown column 'lable_x'"),
    ({**columns(), "e3": [0] * 24}, " has no column 'e2'; name them e0, e1, ..."),
    ({k: v for k, v in columns().items() if k not in ("e0", "e1")}, " has no vectors"),
    ({k: v for k, v in columns().items() if k != "user"}, " has no column 'user'"),
    ({k: v for k, v in columns().items() if k != "window"}, "row 13: user 'u00', window 0 again"),
    (columns(9), " has 9 users; give 10 or more"),
    ({k: [] for k in columns()}, " has no rows; give a row a user, or a row a user and window"),
]


@pytest.mark.parametrize(("table", "line"), MISTAKES, ids=[line[:40] for _, line in MISTAKES])
def test_a_malformed_table_is_one_line(
    tmp_path: Path, table: dict[str, list[Any]], line: str
) -> None:
    path = save(tmp_path / "t.csv", table)
    with pytest.raises(UserError) as caught:
        read_table(path)
    text = str(caught.value)
    assert text.removeprefix(str(path)).strip().startswith(line.strip())
    assert text.startswith(str(path))
    assert "\n" not in text


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_table(path)
    return str(caught.value).replace(str(path), "FILE")


def test_lists_of_other_lengths_and_kinds(tmp_path: Path) -> None:
    table = columns()
    del table["e0"], table["e1"]
    path = tmp_path / "t.parquet"
    good: list[Any] = [[1.0, 2.0]] * 24
    for row, cell, said in [
        (5, [1.0], "FILE row 5: embedding has 1 numbers, that of row 1 has 2"),
        (2, None, "FILE row 2: embedding is empty; give a list of numbers"),
        (1, [], "FILE row 1: embedding is []; give a list of numbers"),
        (7, [1.0, None], "FILE row 7: embedding is [1.0, nan]; give finite numbers"),
        (7, [1.0, float("nan")], "FILE row 7: embedding is [1.0, nan]; give finite numbers"),
    ]:
        cells = good.copy()
        cells[row - 1] = cell
        save(path, {**table, "embedding": cells})
        assert refused(path).startswith(said)
    save(path, {**table, "embedding": ["[1, 2]"] * 24})
    assert refused(path).startswith("FILE row 1: embedding is '[1, 2]'; give a list")
    save(path, {**table, "embedding": good, "e0": [1.0] * 24})
    assert refused(path).startswith("FILE has both 'embedding' and e0, e1, ...")
    save(path, {**columns(), "user": [float(i) for i in range(24)]})
    assert refused(path).startswith("FILE row 1: user is 0.0; give a text or an integer")


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.csv") == "no table FILE; give a .parquet, .npz or .csv file"
    text = tmp_path / "t.txt"
    text.write_text("user")
    assert refused(text).startswith("FILE is no .parquet, .npz or .csv file")
    for suffix in (".npz", ".parquet"):
        path = tmp_path / f"t{suffix}"
        for content in (b"", b"PK\x03\x04 and no more", b"PAR1PAR1", bytes(range(256))):
            path.write_bytes(content)
            assert "FILE is no" in refused(path)
    np.savez(tmp_path / "o.npz", user=np.array([{}], dtype=object))
    assert "plain arrays" in refused(tmp_path / "o.npz")
    np.savez(tmp_path / "s.npz", user=np.arange(12), embedding=np.zeros((11, 2)))
    assert refused(tmp_path / "s.npz").startswith("FILE: embedding has 11 rows, user has 12")
    np.savez(tmp_path / "d.npz", user=np.arange(12), embedding=np.zeros(12))
    assert refused(tmp_path / "d.npz").startswith("FILE: embedding has shape (12,)")
    ragged = tmp_path / "r.csv"
    ragged.write_text("user,e0\na,1\nb\n")
    assert refused(ragged).startswith("FILE row 2: 1 cells, the header has 2")
    ragged.write_text("user,e0,e0\na,1,2\n")
    assert refused(ragged).startswith("FILE has two columns 'e0'")
    ragged.write_bytes(b"user,e0\n\xff\xfe,1\n")
    assert refused(ragged).startswith("FILE cannot be read as CSV")
    ragged.write_text("")
    assert refused(ragged).startswith("FILE has no column 'user'")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_any_bytes_are_a_table_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".csv", ".npz", ".parquet"]))
    path = save(tmp_path / f"t{suffix}", columns())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(bytes(content))
    with contextlib.suppress(UserError):
        assert np.isfinite(read_table(path).vectors_RD).all()
