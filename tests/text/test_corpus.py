"""The corpus: what is read, what is left out and said, and that held-out text is held out."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import UserError
from puna.text.corpus import Corpus, TextFile, _cuts, _split, find_stdlib, read_corpus


def prose(seed: int, lines: int = 40) -> str:
    stream = random.Random(seed)
    words = ["llama", "puna", "grass", "condor", "high", "cold", "wool", "ichu", "frost"]
    made = (" ".join(stream.choices(words, k=9)) + f" {seed}" for _ in range(lines))
    return "\n".join(made) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for i in range(200):
        file = root / f"part{i % 3}" / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(prose(i))
    return root


def paths(corpus: Corpus) -> tuple[set[str], set[str]]:
    return {d.path for d in corpus.train}, {d.path for d in corpus.held_out}


def test_every_file_is_on_one_side(folder: Path) -> None:
    corpus = read_corpus(folder, held_out_percent=10)
    train, held_out = paths(corpus)
    assert not train & held_out
    assert train | held_out == {f"part{i % 3}/{i}.txt" for i in range(200)}
    assert held_out
    assert len(held_out) < len(train)
    assert {d.path: d.text for d in corpus.train + corpus.held_out}["part1/1.txt"] == prose(1)


@pytest.mark.parametrize("percent", [2, 10, 50])
def test_the_share_held_out_is_the_one_asked_for(percent: int) -> None:
    # Few names can draw far from the share (200 gave 3 % for 10 %), so this takes many.
    count = 20_000
    _, held_out = _split([TextFile(f"{i}.txt", "") for i in range(count)], percent)
    share = percent / 100
    deviation = math.sqrt(count * share * (1 - share))
    assert abs(len(held_out) - count * share) < 4 * deviation


def test_sides_and_digest_depend_on_the_text_alone(folder: Path, tmp_path: Path) -> None:
    before = read_corpus(folder, held_out_percent=10)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_corpus(tmp_path / "elsewhere", held_out_percent=10) == before
    (folder / "more.txt").write_text(prose(999))
    after = read_corpus(folder, held_out_percent=10)
    assert paths(before)[1] <= paths(after)[1]
    assert after.digest != before.digest


def test_copies_and_near_copies_are_never_held_out(folder: Path) -> None:
    before = read_corpus(folder, held_out_percent=10)
    exact, near, far = (d.path for d in before.held_out[:3])
    lines = {p: (folder / p).read_text().splitlines(keepends=True) for p in (near, far)}
    (folder / "copy.txt").write_text((folder / exact).read_text())
    # In a file held out itself nothing would be seen, so these go where training text is.
    bait = Path(before.train[0].path)
    (folder / bait).write_text("".join(lines[near][:21] + lines[far][:20]))
    after = read_corpus(folder, held_out_percent=10)
    train, held_out = paths(after)
    assert near in train
    assert far in held_out  # exactly half is not more than half
    assert len({exact, "copy.txt"} & (train | held_out)) == 1
    assert after.skipped == {"copy of another": 1}


def test_one_large_file_is_cut_and_held_out_by_pieces(tmp_path: Path) -> None:
    text = "".join(prose(i) for i in range(40))
    (tmp_path / "input.txt").write_text(text)
    for path in (tmp_path, tmp_path / "input.txt"):
        corpus = read_corpus(path)
        pieces = sorted(
            corpus.train + corpus.held_out, key=lambda d: int(d.path.removeprefix("input.txt#"))
        )
        assert "".join(d.text for d in pieces) == text
        assert corpus.held_out
        assert len(corpus.held_out) < len(corpus.train) / 10
        assert all(d.text.endswith("\n") for d in pieces)


@given(st.text(st.sampled_from("ab\n"), max_size=200), st.integers(1, 30))
def test_cuts_lose_nothing(text: str, size: int) -> None:
    cuts = _cuts(text, size)
    assert "".join(cuts) == text
    assert all(size <= len(c) <= 2 * size for c in cuts[:-1])


def test_max_bytes_takes_a_stable_sample(folder: Path) -> None:
    # 10 %, so that forty files are still enough not to be cut into pieces.
    small = read_corpus(folder, held_out_percent=10, max_bytes=100_000)
    large = read_corpus(folder, held_out_percent=10, max_bytes=200_000)
    sizes = [sum(d.bytes for d in c.train + c.held_out) for c in (small, large)]
    assert sizes == [100_000, 200_000]
    whole = {d.path for d in small.train + small.held_out if d.text.endswith("\n")}
    assert whole <= {d.path for d in large.train + large.held_out}
    folders = {p.split("/")[0] for p in whole}
    assert folders == {"part0", "part1", "part2"}


def test_rows_of_jsonl_and_parquet_are_documents(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [prose(i) for i in range(60)]
    odd = "a line separator \u2028 inside\n"
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in [*rows[:30], odd]) + "\n"
    )
    pq.write_table(pa.table({"id": range(30), "text": rows[30:]}), tmp_path / "b.parquet")
    corpus = read_corpus(tmp_path)
    found = {d.path: d.text for d in corpus.train + corpus.held_out}
    assert found["a.jsonl#1"] == rows[0]
    assert found["a.jsonl#31"] == odd
    assert found["b.parquet#30"] == rows[59]
    assert len(found) == 61


def test_what_is_left_out_is_counted(folder: Path) -> None:
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / "latin.txt").write_bytes("señor".encode("latin-1"))
    (folder / "empty.md").write_text(" \n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    corpus = read_corpus(folder)
    assert corpus.skipped == {"binary": 1, "empty": 1, "not UTF-8": 1}
    assert not any("git" in d.path for d in corpus.train + corpus.held_out)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file or folder"):
        read_corpus(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no files"):
        read_corpus(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"\0\1")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"of 2 files 1 binary, 1 not UTF-8"):
        read_corpus(tmp_path)
    (tmp_path / "c.txt").write_text("short")
    with pytest.raises(UserError, match=r"5 bytes of text, 10,000 are needed"):
        read_corpus(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(UserError, match=r"d\.jsonl, line 2"):
        read_corpus(tmp_path)
    (tmp_path / "d.jsonl").unlink()
    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="not a parquet file"):
        read_corpus(tmp_path)


def test_two_documents_still_leave_one_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100)
    (tmp_path / "b.txt").write_text("b" * 100)
    corpus = read_corpus(tmp_path, min_bytes=1)
    assert corpus.train
    assert corpus.held_out


def test_the_standard_library_is_python_without_packages() -> None:
    corpus = read_corpus(None, max_bytes=3_000_000)
    documents = corpus.train + corpus.held_out
    assert sum(d.bytes for d in documents) == 3_000_000
    assert all(d.path.endswith(".py") and "site-packages" not in d.path for d in documents)
    assert corpus.held_out
    assert (find_stdlib() / "json" / "decoder.py").is_file()
