"""`puna chat` through standard input, on a run of two tiny stages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from two_stages import write_stages

from puna.agents.abilities import abilities
from puna.agents.console import COMMANDS
from puna.cli import main
from puna.gym.registry import load_environment

SCORE = {"mean": 0.25, "low": 0.125, "high": 0.5}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.core.threads.default_threads", lambda: 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "tiny"
    write_stages(root, 256)  # bytes only
    (root / "exam").mkdir()
    result = {"scores": [{"stage": "rl", "env": {"name": "arithmetic"}, "score": {"value": SCORE}}]}
    (root / "exam" / "stage.json").write_text(json.dumps({"result": result}))
    stages = [
        {"id": "sft", "kind": "sft"},
        {"id": "rl", "kind": "rl"},
        {"id": "exam", "kind": "eval", "envs": [{"id": "arithmetic", "terms": 3}]},
    ]
    record = {"name": "tiny", "stages": stages, "machine": {"threads": 1}}
    (root / "run.json").write_text(json.dumps(record))
    return root


def chat(run: Path, typed: str | bytes, *options: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, "-m", "puna.cli", "chat", str(run), "--max-tokens", "8", *options],
        input=typed.encode() if isinstance(typed, str) else typed, capture_output=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8:strict"}, check=False,
    )  # fmt: skip
    out = done.stdout.decode("utf-8", "replace").replace("> ", "\n> ")
    return done.returncode, out.splitlines(), done.stderr.decode()


def test_a_whole_conversation(run: Path) -> None:
    lines_typed = [
        "2+2=", "/stages", "/stage sft", "2+2=", "/compare sft rl", "2+2=", "/stage nowhere",
        "/bogus", "", "/stage rl", "1+1=", "/reset", "2+2=",
    ]  # fmt: skip
    code, lines, errors = chat(run, "\n".join(lines_typed) + "\n")
    assert (code, errors) == (0, "")
    assert lines[0] == "tiny: rl solves 25% of arithmetic [12%, 50%]"
    env = load_environment("arithmetic", {"terms": 3})
    prompts = [env.task("test", i).messages[0].text for i in range(3)]
    assert lines[1] == "try: " + "   ".join(prompts)
    assert lines[2].startswith("talking to rl;")
    text = "\n".join(lines)
    answers = text.split("\n> ")[1:]
    rl, stages, to_sft, sft, to_both, both, nowhere, bogus, *rest = answers
    _, to_rl, _, reset, rl_again, end = rest
    assert rl.strip()
    assert rl != sft
    assert stages.strip() == "rl sft"
    assert to_sft.strip() == "talking to sft"
    assert to_both.strip() == "asking sft and rl"
    assert both.strip() == f"sft: {sft.strip()}\nrl: {rl.strip()}"
    assert "has no finished stage 'nowhere'; known: rl, sft" in nowhere
    assert bogus.strip() == "no command /bogus; /help lists them"
    assert to_rl.strip() == "talking to rl"
    assert reset.strip() == ""
    assert rl_again.strip() == rl.strip()  # nothing of the conversation before is left
    assert end.strip() == ""


def test_bytes_that_are_no_text_end_nothing_and_quit_leaves_at_once(run: Path) -> None:
    code, lines, errors = chat(run, b"\xff\xfe\n/stages\n/quit\n2+2=\n", "--stage", "sft")
    assert (code, errors) == (0, "")
    assert lines[2].startswith("talking to sft;")
    assert "> rl sft" in lines
    assert lines[-1] == "> "


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--stage", "dpo"], "no finished stage 'dpo'"),
        (["--max-tokens", "0"], "max-tokens must be at least 1"),
        (["--temperature", "-1"], "temperature 0 or more"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", str(run), *options]) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert expected in errors


def test_a_question_on_the_command_line_is_answered_alone(run: Path) -> None:
    _, lines, _ = chat(run, "2+2=\n/quit\n", "--stage", "sft")
    code, alone, errors = chat(run, "", "2+2=", "--stage", "sft")
    assert (code, errors) == (0, "")
    assert "\n".join(alone) == "\n".join(lines).split("\n> ")[1].strip()
    code, alone, errors = chat(run, "", "2+2=" * 30)
    assert (code, alone) == (2, [])
    assert errors == "puna: the question is longer than the model's context; say less\n"


def test_mistakes_in_commands_are_one_line_and_change_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a row\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    mistakes = {
        "/": "no command /; /help lists them",
        "/undoo": "no command /undoo; did you mean 'undo'? /help lists them",
        "/stage": "/stage NAME: talk to another stage, beginning anew",
        "/compare sft": "/compare A B: answer the next prompts with both stages",
        "/quit now": "/quit: leave (so does Ctrl-D)",
        "/undo": "nothing was asked yet",
        "/retry": "nothing was asked yet",
        f"/save {tmp_path}/new.jsonl": "nothing was answered yet",
        f"/load {tmp_path}/absent.jsonl": f"{tmp_path}/absent.jsonl has no conversations; ",
        f"/load {tmp_path}/empty.jsonl": f"{tmp_path}/empty.jsonl has no conversations; ",
        f"/load {tmp_path}/notes.txt": f"{tmp_path}/notes.txt row 1: the row is not JSON",
        f"/load {tmp_path}": f"{tmp_path} is not a file",
        "/load /dev/zero": "/dev/zero is not a file",
        "/load a\0b": "no file has a name with a zero byte in it",
        "/load " + "x" * 5000: "cannot read xxx",
        "/load ~nobody-of-this-name/x": "~nobody-of-this-name/x has no conversations",
        "/set size 3": "no setting 'size'; known: max_tokens, seed, temperature",
        "/set temperature -1": "temperature is -1, must be 0 to 100",
        "/set temperature nan": "temperature is not a number",
        "/set temperature NaN": "temperature is not a number",
        "/set temperature": "temperature is not a number",
        "/set max_tokens 0": "max_tokens is 0, must be 1 to 1e+07",
        "/set max_tokens null": "max_tokens is not a whole number",
        "/set seed " + "[" * 3000: "seed is not a whole number",
        "/set seed " + "9" * 5000: "seed is not a whole number",
        "/set": "temperature 0  max_tokens 8  seed 0",
        "/history": "",
    }
    code, lines, errors = chat(run, "\n".join(mistakes) + "\n")
    assert (code, errors) == (0, "")
    answers = "\n".join(lines).split("\n> ")[1:]
    for (typed, wanted), answer in zip(mistakes.items(), answers, strict=False):
        assert answer.startswith(wanted), typed[:60]
        assert bool(answer.strip()) == bool(wanted)
        assert "\n" not in answer.rstrip("\n")
    assert len(answers) == len(mistakes) + 1
    assert (tmp_path / "notes.txt").read_text() == "not a row\n"
    assert not (tmp_path / "new.jsonl").exists()


def test_what_commands_do_is_told(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "my talks.jsonl"
    done = {
        "2+2=": "",
        f"/save {rows}": f"row 1 of {rows}",
        "/set temperature 2": "temperature 2  max_tokens 8  seed 0",
        "/set max_tokens 6": "temperature 2  max_tokens 6  seed 0",
        "/retry": "",
        "/set": "temperature 2  max_tokens 6  seed 1",
        "/undo": "forgotten: 2+2=",
        "/history": "",
        f"/load {rows}": "2 messages",
        "/system Be brief.": "",
        "/history ": "",
        "/exit": "",
    }
    _, lines, errors = chat(run, "\n".join([*done, "never asked"]) + "\n")
    assert errors == ""
    answers = [a.rstrip("\n") for a in "\n".join(lines).split("\n> ")[1:]]
    told = dict(zip(done, answers, strict=True))
    said, again = told["2+2="], told["/retry"]
    assert said != again
    assert told == done | {
        "2+2=": said, "/retry": again, "/history ": f"system: Be brief.\nuser: 2+2=\nrl: {said}",
    }  # fmt: skip
    (row,) = (json.loads(line) for line in rows.read_text().splitlines())
    assert row["messages"][1] == {"role": "assistant", "content": said}


def test_a_conversation_that_is_too_long_says_so_and_begins_anew(run: Path) -> None:
    _, lines, _ = chat(run, "2+2=\n" * 9)
    answers = [a.strip() for a in "\n".join(lines).split("\n> ")[1:]]
    at = answers.index("(the conversation was too long; it begins anew)")
    assert answers[at + 1] == answers[0] != answers[1]


def test_help_is_aligned_and_names_every_command(run: Path) -> None:
    _, lines, _ = chat(run, "/help\n")
    told = "\n".join(lines).split("\n> ")[1].strip().splitlines()
    assert [line.split()[0].lstrip("/") for line in told[:-3]] == list(COMMANDS)
    (column,) = {len(head) + len(gap) for head, gap in map(_head, told)}
    assert column > max(len(f"/{n} {c.usage}") for n, c in COMMANDS.items())


def _head(line: str) -> tuple[str, str]:
    found = re.match(r"(.*?)( {2,})\S", line)
    assert found, line
    return found[1], found[2]


def test_a_prompt_of_several_lines(run: Path) -> None:
    typed = 'one\\\ntwo \\\nthree\n/history\n/reset\n"""\n/quit\n  indented\n"""\n/history\n'
    typed += '/reset\n"""/x"""\n/history\n/reset\n""""""\n\\\n\n/history\n/system be\\\nbrief\n'
    typed += '/history\n"""and\nunclosed'
    _, lines, _ = chat(run, typed)
    answers = "\n".join(lines).split("\n> ")[1:]
    shown = [
        a.partition("\nrl: ")[0].rstrip() for a in answers if a.startswith(("user:", "system:"))
    ]
    assert shown == [
        "user: one\ntwo \nthree", "user: /quit\n  indented", "user: /x", "system: be\nbrief",
    ]  # fmt: skip
    assert answers[-2].strip()  # what is not closed is asked all the same


def test_a_checkpoint_says_that_nothing_is_known(run: Path) -> None:
    what, prompts = abilities(run / "sft")
    assert what.startswith("a checkpoint")
    assert prompts == []


def test_a_run_without_scores_or_with_unknown_environments(tmp_path: Path) -> None:
    few = tmp_path / "few.py"
    few.write_text(
        "from puna.envs.arithmetic.env import Arithmetic\nclass E(Arithmetic):\n"
        "    name = 'few'\n    sizes = {'train': 9, 'test': 2}\n"
    )
    envs = ["nowhere", {"terms": 2}, {"id": "arithmetic", "term": 1}, str(few)]
    record = {"name": "x", "stages": [{"id": "e", "kind": "eval", "envs": envs}]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    what, prompts = abilities(tmp_path)
    assert what == "x: no stage was evaluated"
    assert len(prompts) == 2
