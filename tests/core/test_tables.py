"""Tables into frozen dataclasses: every mistake is one line with the place and the nearest name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.config import build, parse_set, read_toml, to_dict
from puna.core.errors import UserError, nearest


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    steps: int
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    kind: Literal["adam", "muon"] = "adam"
    data: Path | None = None
    shuffle: bool = True
    envs: tuple[str | Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, must be 1 or more")


def line(table: Mapping[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        build(Settings, table, "r.toml [sft]")
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_every_level_is_converted() -> None:
    made = build(
        Settings,
        {
            "steps": 3,
            "inner": {"rate": 1, "names": ["a"]},
            "many": [{"rate": 2.5}, {}],
            "kind": "muon",
            "data": "d.txt",
            "envs": ["arithmetic", {"id": "x", "terms": 2}],
        },
        "here",
    )
    assert made == Settings(
        3, Inner(1.0, ("a",)), (Inner(2.5), Inner()), "muon", Path("d.txt"),
        envs=("arithmetic", {"id": "x", "terms": 2}),
    )  # fmt: skip
    assert isinstance(made.inner.rate, float)


def test_an_unknown_key_names_the_place_and_the_nearest() -> None:
    assert line({"step": 1}) == "r.toml [sft]: unknown key 'step'; did you mean 'steps'?"
    inside = line({"steps": 1, "inner": {"rat": 1}})
    assert inside == "r.toml [sft].inner: unknown key 'rat'; did you mean 'rate'?"
    assert "many[1]: unknown key 'zzz'; known: names, rate" in line(
        {"steps": 1, "many": [{}, {"zzz": 1}]}
    )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"steps": "3"}, "r.toml [sft].steps is '3' (str); give a int"),
        ({"steps": True}, "r.toml [sft].steps is True (bool); give a int"),
        ({"steps": 1.0}, "r.toml [sft].steps is 1.0 (float); give a int"),
        ({"steps": 1, "inner": {"rate": True}}, "r.toml [sft].inner.rate is True (bool)"),
        ({"steps": 1, "inner": {"rate": "x"}}, "r.toml [sft].inner.rate is 'x' (str)"),
        ({"steps": 1, "inner": 3}, "r.toml [sft].inner is 3 (int); give a Inner"),
        ({"steps": 1, "inner": {"names": ["a", 2]}}, "r.toml [sft].inner.names[1] is 2 (int)"),
        ({"steps": 1, "inner": {"names": "abc"}}, "r.toml [sft].inner.names is 'abc' (str)"),
        ({"steps": 1, "kind": "adm"}, "r.toml [sft].kind is 'adm'; did you mean 'adam'?"),
        ({"steps": 1, "data": 7}, "r.toml [sft].data is 7 (int); give a Path"),
        ({"steps": 1, "shuffle": 1}, "r.toml [sft].shuffle is 1 (int); give a bool"),
        ({}, "r.toml [sft]: 'steps' is missing; add steps = ..."),
        ({"steps": 0}, "r.toml [sft]: steps is 0, must be 1 or more"),
    ],
)
def test_wrong_types_are_one_line(table: dict[str, Any], expected: str) -> None:
    assert line(table).startswith(expected)


def test_none_can_be_said_in_toml() -> None:
    assert build(Settings, {"steps": 1, "data": "none"}, "x").data is None


def test_a_config_becomes_plain_data_and_itself_again() -> None:
    made = Settings(2, Inner(0.5, ("a", "b")), (Inner(),), data=Path("x"), envs=({"id": "e"},))
    plain = to_dict(made)
    assert plain["inner"] == {"rate": 0.5, "names": ["a", "b"]}
    assert plain["data"] == "x"
    assert build(Settings, plain, "x") == made


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("rl.steps=50", ["rl", "steps"], 50),
        ("rl.lr=1e-3", ["rl", "lr"], 1e-3),
        ("sft.data=my file.jsonl", ["sft", "data"], "my file.jsonl"),
        ("a.b=x=y", ["a", "b"], "x=y"),
        ("a.b = true", ["a", "b"], True),
        ('a.b=["x", 1]', ["a", "b"], ["x", 1]),
        ("a.b={c = 2}", ["a", "b"], {"c": 2}),
        ("a.b='50'", ["a", "b"], "50"),
        ("a.b=", ["a", "b"], ""),
        ("seed=1", ["seed"], 1),
    ],
)
def test_set_reads_toml_or_bare_text(text: str, keys: list[str], value: Any) -> None:
    assert parse_set(text) == (keys, value)


@pytest.mark.parametrize("text", ["steps", "", "=3", "a..b=3", ".a=3"])
def test_a_malformed_set_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError, match="key=value"):
        parse_set(text)


@given(st.text())
def test_any_set_is_read_or_refused(text: str) -> None:
    try:
        keys, _ = parse_set(text)
    except UserError:
        return
    assert all(keys)


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    for name, data in {"bad.toml": b"x = ", "binary.toml": b"\xff\x00"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            read_toml(tmp_path / name)
    with pytest.raises(UserError, match=r"no recipe .*gone\.toml"):
        read_toml(tmp_path / "gone.toml")
    with pytest.raises(UserError, match="cannot read"):
        read_toml(tmp_path)


def test_nearest_lists_everything_where_nothing_is_near() -> None:
    assert nearest("zzz", ["beta", "alpha"]) == "known: alpha, beta"
    assert nearest("x", []) == "none is known"


def test_a_user_error_is_always_one_line() -> None:
    assert str(UserError("a\nb", "c\td")) == "a b; c d"
