"""`puna chat` through standard input, on a run of two tiny stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from puna.agents.console import Chat, abilities
from puna.cli import main
from puna.core.errors import UserError
from puna.engine.policy import SamplingParams
from puna.gym.registry import load_environment
from puna.models import ModelConfig, build, save
from puna.text.tokenizer import Tokenizer

CONFIG = ModelConfig(
    family="llama3", vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=8, intermediate_size=64, max_positions=96, initializer_range=0.2,
)  # fmt: skip
SCORE = {"mean": 0.25, "low": 0.125, "high": 0.5}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.core.threads.default_threads", lambda: 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs") / "tiny"
    tokenizer = Tokenizer.train(["0123456789 + - ="] * 3, 300)
    for seed, name in enumerate(("sft", "rl")):
        model = build(CONFIG, seed)
        with torch.no_grad():
            assert model.head is not None
            model.head.weight[256:] = 0.0  # bytes only, so that it never falls silent
        save(model, root / name / "model")
        tokenizer.save(root / name / "model")
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
        input=typed.encode() if isinstance(typed, str) else typed, capture_output=True, timeout=60,
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
    assert "/compare A B" in bogus
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


def test_the_second_turn_sees_the_first(run: Path) -> None:
    both = Chat(run, "rl", SamplingParams(8, 0.0))
    first, second = both.say("2+2=")[0][1], both.say("2+2=")[0][1]
    assert first != second
    both.reset()
    assert both.say("2+2=") == [("rl", first)]
    with pytest.raises(UserError):
        both.use("nowhere")
    assert both.say("2+2=") == [("rl", second)]  # a mistake forgets nothing


def test_a_conversation_that_is_too_long_begins_anew(run: Path) -> None:
    talk = Chat(run, "rl", SamplingParams(8, 0.0))
    said = [talk.say("2+2=")[0][1] for _ in range(8)]
    assert "(the conversation was too long; it begins anew)" in said
    at = said.index("(the conversation was too long; it begins anew)")
    assert said[at + 1 :][:1] == said[:1]


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
