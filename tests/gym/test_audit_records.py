"""Audits are kept by what they are about, found again, and asked for before training."""

from __future__ import annotations

import re
import json
from pathlib import Path

import pytest
from sums_env import GOOD

from puna.core.errors import UserError
from puna.gym.audit import Audit, audit
from puna.gym.audit.many import audit_all, members
from puna.gym.audit.parent import TASKS
from puna.gym.audit.records import find, folder, keep, require
from puna.gym.loop import identity
from puna.gym.registry import load_environment

SOFT = GOOD.replace("answer.strip() == problem.answer", "problem.answer in answer")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_AUDITS", str(tmp_path / "audits"))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "sums.py"
    path.write_text(text)
    return str(path)


def test_it_is_made_once_and_found_by_the_hash_of_the_code(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    asked: list[str] = []
    first = require(path, {}, progress=asked.append)
    assert first.passed
    assert asked
    asked.clear()
    assert require(path, {}, progress=asked.append).id == first.id
    assert not asked
    write(tmp_path, GOOD + "# changed\n")
    second = require(path, {}, progress=asked.append)
    assert asked
    assert second.env["hash"] != first.env["hash"]
    assert len(list(folder().iterdir())) == 2


def test_a_reward_with_holes_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path, SOFT)
    with pytest.raises(UserError, match=r"many answers.*--unaudited") as caught:
        require(path, {})
    assert "\n" not in str(caught.value)
    asked: list[str] = []
    allowed = require(path, {}, allow=True, progress=asked.append)
    assert not allowed.passed
    assert not asked  # the first one was kept


def test_a_glance_is_no_audit(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    keep(audit(path, n=1))
    asked: list[str] = []
    assert require(path, {}, progress=asked.append).n == TASKS
    assert asked


def test_a_record_that_was_touched_is_not_believed(tmp_path: Path) -> None:
    found = audit(write(tmp_path, SOFT), n=2)
    place = keep(found)
    assert place is not None
    assert find(found.env) == Audit.from_json(json.loads(place.read_text()))
    data = json.loads(place.read_text())
    data["passed"] = True
    for finding in data["findings"]:
        finding["status"] = "ok"
    place.write_text(json.dumps(data))
    assert find(found.env) is None
    place.write_text("{")
    assert find(found.env) is None
    assert find(identity(load_environment("arithmetic"))) is None


def test_where_nothing_can_be_kept_the_audit_is_still_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PUNA_AUDITS", str(tmp_path / "file" / "below"))
    assert require(write(tmp_path, GOOD), {}).passed


def test_all_of_a_library(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("reasoning_gym")
    names = members("reasoning_gym:*")
    assert len(names) > 100
    assert "reasoning_gym:coin_flip" in names
    with pytest.raises(UserError, match="is no library"):
        members("nowhere:*")
    with pytest.raises(UserError, match="cannot list"):
        members("gymnasium:*")
    from puna.compat import reasoning_gym

    monkeypatch.setattr(reasoning_gym, "names", lambda: ["coin_flip", "chain_sum"])
    coin, chain = audit_all("reasoning_gym:*")
    told = capfd.readouterr().err
    assert re.search(r"^1 of 2, \d+ s: reasoning_gym:\w+: done$", told, re.M), told
    assert re.search(r"^2 of 2, \d+ s: reasoning_gym:\w+: done$", told, re.M), told
    # the constant "0" is paid 0.94 there: it pays for digits in common
    assert {"constant answer", "frequent answer"} & {f.probe for f in coin.holes}
    assert coin.target == "reasoning_gym:coin_flip"
    assert not {"oracle", "constant answer"} & {f.probe for f in chain.holes}


@pytest.mark.parametrize(
    ("dataset", "probe"),
    [
        ("game_of_life_halting", "idle"),  # truth of texts: any text that is not empty is paid
        ("rush_hour", "oracle"),  # the stored answer is none that is paid
        ("coin_flip", "constant answer"),
    ],
)
def test_known_faults_of_reasoning_gym_are_found(dataset: str, probe: str) -> None:
    pytest.importorskip("reasoning_gym")
    found = audit(f"reasoning_gym:{dataset}")
    holes = {f.probe for f in found.holes}
    assert probe in holes or (probe == "idle" and "constant answer" in holes), found.holes
