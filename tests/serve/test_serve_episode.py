"""One episode in full: tokens with their probabilities, and what its artifacts say has changed."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from shop_run import write_shop_run

from puna.envs.shop.database import open_copy
from puna.report.read import open_run
from puna.serve.artifacts import changes
from puna.serve.episode import full, opening, pieces
from puna.serve.journals import Index
from puna.text.tokenizer import Tokenizer


def shown(run: Path, stage: str = "rl", n: int = 0) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    found = open_run(run)
    index = Index(run / stage / "episodes.jsonl")
    index.refresh(60)
    one = found.stage(stage)
    assert one is not None
    shot = index.episode(n)
    return one, shot, full(found, one, shot)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop_run(tmp_path_factory.mktemp("shop") / "shop")


def test_rows_that_an_episode_changed_are_those_of_its_database(shop: Path) -> None:
    stage, shot, told = shown(shop)
    (database, log) = told["changes"]
    assert (database["name"], database["kind"], database["compared"]) == (
        "shop.db",
        "database",
        True,
    )
    kept = (stage.dir / "artifacts" / shot["artifacts"]["shop.db"]).read_bytes()
    before = (opening(stage, shot) or {})["shop.db"]
    queries = {"orders": "SELECT * FROM orders", "refunds": "SELECT * FROM refunds"}
    rows = {}
    for name, query in queries.items():
        for when, data in (("before", before), ("after", kept)):
            with contextlib.closing(open_copy(data)) as db:
                rows[name, when] = {tuple(None if v is None else str(v) for v in r)
                                    for r in db.execute(query)}  # fmt: skip
    tables = {t["table"]: t for t in database["tables"]}
    gone = rows["orders", "before"] - rows["orders", "after"]
    come = rows["orders", "after"] - rows["orders", "before"]
    assert gone, "the reference changed no order, so nothing is compared"
    assert tables["orders"]["changed"] == [[gone.pop(), come.pop()]]
    assert tables["orders"]["same"] == len(rows["orders", "before"]) - 1
    assert set(tables["refunds"]["added"]) == rows["refunds", "after"] - rows["refunds", "before"]
    assert database["tables"][0]["table"] in queries  # what changed stands first
    assert log["kind"] == "text"
    assert ("-", "[]") in log["lines"]


def test_an_environment_that_is_another_one_now_has_no_before(shop: Path) -> None:
    stage, shot, _ = shown(shop)
    assert opening(stage, shot) is not None
    assert opening(stage, {**shot, "env": {"hash": "0" * 16}}) is None


def test_the_file_of_a_run_is_not_run_to_look_at_it(runs: Path) -> None:
    found = open_run(runs / "tiny")
    stage = found.stage("rl")
    assert stage is not None
    assert stage.record["config"]["env"]["id"].endswith("brief.py")
    _, shot, told = shown(runs / "tiny")
    assert opening(stage, shot) is None
    assert told["changes"] is None


def test_tokens_are_those_that_were_sampled(runs: Path) -> None:
    _, shot, told = shown(runs / "tiny")
    (branch,) = shot["branches"]["agent"]
    (tokens,) = told["tokens"]["agent"]
    tokenizer = Tokenizer.load(runs / "tiny" / "rl" / "model")
    assert "".join(text for text, _ in tokens) == tokenizer.decode(
        branch["ids"], skip_special=False
    )
    sampled = [p for p, mask in zip(branch["logprobs"], branch["mask"], strict=True) if mask]
    assert [p for _, p in tokens if p is not None] == sampled
    assert all(p < -0.1 for p in sampled), "certain tokens would not tell probabilities from zeros"


def test_a_character_of_several_tokens_stands_with_the_last() -> None:
    tokenizer = Tokenizer.train(["plain words " * 20], 300)
    ids = tokenizer.encode("a🦙b")
    made = pieces(tokenizer, {"ids": ids, "mask": [1] * len(ids), "logprobs": [-0.5] * len(ids)})
    assert [text for text, _ in made] == ["a", "", "", "", "🦙", "b"]


def test_tokens_that_are_none_are_told_as_such() -> None:
    tokenizer = Tokenizer.train(["plain words " * 20], 300)
    odd: list[Any] = [10**30, -1, "x", None, [1], 5.5, 10**7]
    given = {"ids": odd, "mask": [1] * len(odd), "logprobs": [math.inf, None, "y", *[-1.0] * 4]}
    made = pieces(tokenizer, given)
    assert len(made) == len(odd)
    json.dumps(made, allow_nan=False)
    assert pieces(tokenizer, None) == []


def database(script: str) -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(script)
        return db.serialize()


def test_rows_without_a_key_are_counted() -> None:
    made = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL);"
    (found,) = changes(
        {"d": database(made)},
        {"d": database(made + "INSERT INTO t VALUES (1, 'x'), (3, x'00ff');")},
    )
    (table,) = found["tables"]
    assert table["added"] == [("1", "x"), ("3", "00ff")]
    assert (table["removed"], table["changed"], table["same"]) == ([], [], 3)


def test_a_table_that_came_or_went_is_told() -> None:
    a, b = "CREATE TABLE a (x); INSERT INTO a VALUES (1);", "CREATE TABLE b (y); "
    (found,) = changes({"d": database(a)}, {"d": database(b + "INSERT INTO b VALUES (2);")})
    told = {t["table"]: (t["columns"], t["added"], t["removed"]) for t in found["tables"]}
    assert told == {"a": (["x"], [], [("1",)]), "b": (["y"], [("2",)], [])}


BROKEN = {
    "cut": database("CREATE TABLE t (a);")[:600],
    "head alone": b"SQLite format 3\x00",
    "noise": b"SQLite format 3\x00" + bytes(range(256)) * 40,
    "binary": bytes(range(256)),
    "empty": b"",
    "deep": b"[" * 100_000,
    "nul": b"text\x00text",
}


@pytest.mark.parametrize("name", BROKEN)
def test_any_bytes_are_told(name: str) -> None:
    for before in (None, {}, {"f": b"old"}, {"f": BROKEN[name]}):
        (found,) = changes(before, {"f": BROKEN[name]})
        assert found["bytes"] == len(BROKEN[name])
        assert found["kind"] in ("bytes", "text", "database")
        json.dumps(found)


def test_a_database_that_never_ends_is_given_up() -> None:
    endless = (
        "CREATE TABLE n (i);"
        "INSERT INTO n WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c"
        " WHERE x < 1000) SELECT x FROM c;"
        "CREATE VIEW v AS SELECT a.i FROM n a, n b, n c, n d;"
    )
    (found,) = changes(None, {"d": database(endless)})
    (table,) = found["tables"]  # a view is not read
    assert table["table"] == "n"
    assert len(table["rows"]) == 200


def test_lines_of_a_text_are_compared() -> None:
    old, new = "a\nb\nc\n" * 50, "a\nb\nc\n" * 25 + "x\n" + "a\nb\nc\n" * 25
    (found,) = changes({"f": old.encode()}, {"f": new.encode()})
    assert [line for line in found["lines"] if line[0] in "+-"] == [("+", "x")]
    assert len(found["lines"]) == 6  # a place, two lines before, two after
    (gone,) = changes({"f": b"a"}, {})
    assert gone["kind"] == "gone"
