"""The room: a paper copied from the template runs, goes on after a kill, and is judged."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_rooms import imports
from tiny_run import REPOSITORY, environment

from puna.core.claims import NOT_SHOWN, NOT_TESTABLE, SHOWN, Claim, judge, read_claims
from puna.core.errors import UserError
from puna.papers.paper import TEMPLATE, known_papers, load_paper
from puna.papers.room import read_run, run_paper

CLAIM = {"id": "c", "statement": "s", "source": "p", "command": "x", "metric": "m"}

WHOLE = "[[claim]]\n" + "".join(f"{k} = '{v}'\n" for k, v in CLAIM.items()) + "against = 1\n"


@pytest.fixture
def mypaper(tmp_path, monkeypatch):
    """What a newcomer has after copying the template."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(TEMPLATE, tmp_path / "mypaper"))


def edit(paper, file, old, new):
    text = (paper / file).read_text()
    assert old in text
    (paper / file).write_text(text.replace(old, new))


def puna(*args, **variables):
    return subprocess.run(
        [sys.executable, "-m", "puna.cli", *args],
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_copy_of_the_template_is_a_paper(mypaper):
    done = run_paper("./mypaper", quick=True)
    assert [v.verdict for v in done.verdicts] == [SHOWN, SHOWN, NOT_TESTABLE]
    assert sorted(done.rows) == [0, 1, 2, 3, 4]
    # Each observation by itself errs by its noise of variance 1; shrinking takes away 18/20 of
    # the share 1/(1+1) that is noise, and a little more in its positive part.
    plain, shrunk = (
        sum(row[name] for row in done.rows.values()) / 5 for name in ("error_plain", "error_shrunk")
    )
    assert plain == pytest.approx(1.0, abs=0.04)
    assert shrunk == pytest.approx(0.55, abs=0.02)
    assert done.directory == Path("runs/paper-mypaper-quick")
    kept = json.loads((done.directory / "claims.json").read_text())
    assert kept == json.loads(json.dumps(done.to_json()))
    assert "better: shown" in (done.directory / "plots" / "claims.svg").read_text()
    assert "ceiling" in (done.directory / "claims.txt").read_text()


def test_a_copy_that_is_changed_is_another_method(mypaper):
    edit(mypaper, "method.py", "return max(0.0, factor) * observed", "return observed")
    done = run_paper("./mypaper", quick=True)
    assert [v.verdict for v in done.verdicts] == [NOT_SHOWN, NOT_SHOWN, NOT_TESTABLE]


def test_a_kill_loses_one_seed_and_the_same_command_goes_on(mypaper):
    args = ("paper", "run", "./mypaper", "--quick", "--dir", "killed")
    assert puna(*args, PUNA_CRASH_AT="paper.appended:3").returncode == -9
    assert sorted(read_run("./mypaper", Path("killed")).rows) == [0, 1, 2]
    # A half-written record, as a kill in the midst of a write leaves it.
    with open("killed/seeds.jsonl", "a") as journal:
        journal.write('{"seed": 3, "numb')
    done = puna(*args)
    assert done.returncode == 0, done.stderr
    assert "mypaper 3/5" in done.stderr
    assert "shown               better" in done.stdout
    again = run_paper("./mypaper", Path("whole"), quick=True)
    assert read_run("./mypaper", Path("killed")).rows == again.rows


def test_seeds_can_be_added_and_settings_cannot_change(mypaper):
    first = run_paper("./mypaper", Path("run"), quick=True, seeds=2)
    assert [v.verdict for v in first.verdicts] == [NOT_SHOWN, NOT_SHOWN, NOT_TESTABLE]
    assert "a verdict takes 5" in first.text()
    more = run_paper("./mypaper", Path("run"), quick=True, seeds=5)
    assert more.verdicts[0].verdict == SHOWN
    assert all(more.rows[seed] == first.rows[seed] for seed in (0, 1))
    with pytest.raises(UserError, match="run is a run with another config"):
        run_paper("./mypaper", Path("run"), quick=True, sets=["count=30"])
    edit(mypaper, "method.py", "from 3 on", "from three on")
    with pytest.raises(UserError, match="run is a run with another code"):
        run_paper("./mypaper", Path("run"), quick=True)
    assert "another version of its code" in read_run("./mypaper", Path("run")).title


def test_claims_of_a_paper_that_has_not_run(mypaper, capsys):
    from puna import cli

    assert cli.main(["paper", "claims", "./mypaper"]) == 0
    out = capsys.readouterr().out
    assert "not run yet" in out
    assert "not measured yet" in out
    assert "a theorem" in out


def test_a_report_is_the_whole_result(mypaper):
    with open(mypaper / "experiment.py", "a") as file:
        file.write(
            "\n\ndef report(config, directory):\n"
            '    return f"{config.count} means" if config.count != 20 else ""\n'
        )
    run = run_paper("./mypaper", Path("run"), quick=True)
    assert len(run.rows) == 5
    for count in (7, 8):
        done = run_paper("./mypaper", Path("run"), sets=[f"count={count}"])
        assert done.text() == f"{count} means"
        assert (done.directory / "report.txt").read_text() == f"{count} means\n"
        assert not done.rows
    assert read_run("./mypaper", Path("run")).rows == run.rows


def test_a_papers_own_plots_get_the_rows(mypaper):
    with open(mypaper / "experiment.py", "a") as file:
        file.write(
            "\n\ndef plots(rows, directory):\n"
            '    (directory / "own.txt").write_text(str(len(rows)) + " ".join(rows[0]))\n'
        )
    done = run_paper("./mypaper", quick=True)
    own = (done.directory / "plots" / "own.txt").read_text()
    assert own == "5error_shrunk error_plain ceiling"


# Differences 1, 2, 3, 4, 5: mean 3, standard error sqrt(2.5 / 5), t(4) = 2.776.
@pytest.mark.parametrize(
    ("direction", "margin", "sign", "verdict"),
    [
        ("above", 0.0, 1, SHOWN),
        ("above", 1.03, 1, SHOWN),
        ("above", 1.04, 1, NOT_SHOWN),
        ("above", 0.0, -1, NOT_SHOWN),
        ("below", 1.03, -1, SHOWN),
        ("below", 1.04, -1, NOT_SHOWN),
        ("below", 0.0, 1, NOT_SHOWN),
        ("below", -4.97, 1, SHOWN),
        ("below", -4.96, 1, NOT_SHOWN),
        ("within", 4.97, 1, SHOWN),
        ("within", 4.96, 1, NOT_SHOWN),
        ("within", 4.97, -1, SHOWN),
    ],
)
def test_the_interval_decides(direction, margin, sign, verdict):
    claim = Claim(**CLAIM, against="b", direction=direction, margin=margin)
    rows = {seed: {"m": 10.0 + sign * (seed + 1), "b": 10.0} for seed in range(5)}
    (found,) = judge([claim], rows)
    assert found.difference.mean == pytest.approx(3 * sign)
    assert abs(found.difference.low) == pytest.approx(1.0368 if sign > 0 else 4.9632, abs=1e-4)
    assert found.verdict == verdict
    (four,) = judge([claim], {seed: rows[seed] for seed in range(4)})
    assert four.verdict == NOT_SHOWN


@pytest.mark.parametrize(
    ("value", "against", "direction", "margin", "verdict"),
    [
        (0.0, 1e-4, "below", 0.0, SHOWN),
        (0.0, 0.0, "within", 1e-6, SHOWN),
        (80.0, 20.0, "above", 0.0, SHOWN),
        (0.8, "b", "above", 0.0, NOT_SHOWN),  # five times the same is little on 0..1
    ],
)
def test_differences_that_are_equal_in_all_seeds(value, against, direction, margin, verdict):
    claim = Claim(**CLAIM, against=against, direction=direction, margin=margin)
    rows = {seed: {"m": value, "b": 0.7} for seed in range(5)}
    assert judge([claim], rows)[0].verdict == verdict


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no claim"),
        ("claim = 3", "claim 1 is no table"),
        ("claim = [3]", "claim 1 is no table"),
        ("[[claims]]", "unknown key 'claims'"),
        ("[[claim]]\nid = 'a'\nmetrics = 'm'", "claim a: unknown key 'metrics'; did you mean"),
        ("[[claim]]\nid = 'a'", "claim a: 'statement' is missing"),
        ("[[claim]]\nid = 'a'\nstatement = 's'\nsource = 'p'", "needs `metric`"),
        ("[[claim]]\nid = 'a'\nstatement = 's'\nsource = 'p'\ntestable = false", "no `why`"),
        ("[[claim]\n", "not valid TOML"),
        (
            "[[claim]]\nid='a'\nstatement='s'\nsource='p'\ntestable=false\nwhy='w'\n" * 2,
            "two claims",
        ),
        (
            "[[claim]]\nid='a'\nstatement='s'\nsource='p'\nmetric='m'\nagainst=1\ncommand='c'\n"
            "direction='within'",
            "needs a margin above 0",
        ),
    ],
)
def test_a_broken_file_of_claims_is_one_line(tmp_path, text, says):
    (tmp_path / "claims.toml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_claims(tmp_path / "claims.toml")
    assert says in str(refused.value)
    assert str(tmp_path / "claims.toml") in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def measure(", "def measured(", "no function measure"),
        ("from .method", "from .methods", "cannot be imported: ModuleNotFoundError"),
        ('    data: str = ""\n', "", "no dataclass Config with `quick` and `data`"),
        ('return {"error_shrunk": shrunk', 'return {"error_shrnk": shrunk', "did you mean"),
        ('"ceiling": ceiling}', '"ceiling": float("nan")}', "gives ceiling = nan"),
        ('"ceiling": ceiling}', '"ceiling": "high"}', "gives ceiling = 'high'"),
    ],
)
def test_a_broken_paper_is_one_line(mypaper, old, new, says):
    edit(mypaper, "experiment.py", old, new)
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        run_paper("./mypaper", quick=True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show"], "no action 'show'"),
        (["run"], "which one?"),
        (["run", "nosuch"], "no paper 'nosuch'"),
        (["run", "./nosuch"], "no file"),
        (["run", "./mypaper", "--seeds", "0"], "0 seeds"),
        (["run", "./mypaper", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["run", "./mypaper", "--set", "cuont=3"], "unknown key 'cuont'; did you mean 'count'?"),
        (["run", "./mypaper", "--set", "count=2"], "count must be at least 3"),
        (["run", "./mypaper", "--set", "a.b=3"], "have no dots"),
    ],
)
def test_a_mistake_is_one_line(mypaper, capsys, args, says):
    from puna import cli

    assert cli.main(["paper", *args]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2\n3\n", "pairs.csv row 2: '3'"),
        ("1,2\nnan,1\n", "pairs.csv row 2: not finite"),
        ("", "pairs.csv is empty"),
        ("a,b\n", "pairs.csv row 1: 'a,b'"),
    ],
)
def test_malformed_data_are_refused_by_row(mypaper, text, says):
    Path("real").mkdir()
    Path("real/pairs.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        run_paper("./mypaper", data="real")


def test_real_data_are_what_is_measured(mypaper):
    Path("real").mkdir()
    Path("real/pairs.csv").write_text("2,1\n-2,-1\n")
    done = run_paper("./mypaper", data="real/", sets=["repeats=10"])
    assert done.directory == Path("runs/paper-mypaper-real")
    assert read_run("./mypaper", data="real").rows == done.rows
    # Every observation errs by 1; shrinking by 1 - 18/80 leaves 1.55 - 1.
    assert all(row["error_plain"] == pytest.approx(1.0) for row in done.rows.values())
    assert all(row["error_shrunk"] == pytest.approx(0.55**2) for row in done.rows.values())
    assert all(row["ceiling"] == pytest.approx(0.0, abs=1e-12) for row in done.rows.values())


def test_a_broken_run_record_is_one_line(mypaper):
    Path("run").mkdir()
    Path("run/paper.json").write_text("{")
    with pytest.raises(UserError, match=r"run/paper\.json is broken"):
        read_run("./mypaper", Path("run"))


def test_shipped_papers_import_core_and_themselves_only():
    found = []
    for name in known_papers():
        for path in (REPOSITORY / "puna/papers" / name).rglob("*.py"):
            tree, package = ast.parse(path.read_text()), f"puna.papers.{name}"
            reached = [m for _, m in imports(tree, package) if m.split(".")[0] == "puna"]
            found += [m for m in reached if not m.startswith((package, "puna.core."))]
    assert not found


@pytest.mark.parametrize("name", [*known_papers(), str(TEMPLATE)])
def test_shipped_papers_keep_the_contract(name):
    paper = load_paper(name)
    assert (paper.folder / "README.md").read_text().startswith("# ")
    assert any(claim.testable for claim in paper.claims)


def test_the_table_of_the_page_is_the_results(mypaper, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    import claims

    done = run_paper("./mypaper", quick=True)
    Path("results").mkdir()
    shutil.copy(done.directory / "claims.json", "results/mine.json")
    text = claims.page(f"# A\n{claims.BEGIN}old\n{claims.END}# B\n", Path("results"))
    low = done.verdicts[0].difference.low
    assert "old" not in text
    assert f"[{low:+.3g}, " in text
    assert "| `mine`: everywhere | - | not testable here |" in text
    assert text.startswith("# A\n")
    assert text.endswith("# B\n")
    with pytest.raises(SystemExit, match="lost the marks"):
        claims.page("# A\n", Path("results"))
