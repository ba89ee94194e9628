"""Turn metrics: by hand on a few answers, and for an endpoint whose answers have the form."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from openai_server import said, serving

import puna
from puna.core.outcome import Infra, Scored
from puna.core.rng import stream
from puna.engine.policy import SamplingParams
from puna.envs.math.answers import final_answer
from puna.evals.api import print_result
from puna.evals.evaluate import evaluate, local_policy
from puna.evals.turns import turn_metrics
from puna.gym.passes import QUESTION, judge_pass
from puna.gym.registry import load_environment
from puna.models import ModelConfig, build
from puna.text.tokenizer import Tokenizer

YES, NO = f"{QUESTION} Yes", f"{QUESTION} No"
SETTINGS = {"equality": "number", "prompt": "none", "turns": 3}


def judged(text: str) -> Scored:
    return judge_pass(
        text, False, lambda s: final_answer(s) == "4", lambda s: final_answer(s) != "",
        turns=3, rewards="corr",
    )  # fmt: skip


RIGHT_YES = judged(f"#### 4\n{YES}")
WRONG_YES = judged(f"#### 5\n{YES}")
FIXED = judged(f"#### 5\n{NO}\n#### 4\n{YES}")
BROKEN = judged(f"#### 4\n{NO}\n#### 5\n{YES}")
MISSING = judged("#### 4")


def test_by_hand() -> None:
    outcomes = {"a": [RIGHT_YES], "b": [WRONG_YES], "c": [FIXED], "d": [BROKEN], "e": [MISSING],
                "f": [FIXED], "g": [Infra("down")]}  # fmt: skip
    found = turn_metrics(outcomes)
    assert found is not None
    assert found.answers == 6
    assert (found.first.mean, found.final.mean) == (0.5, 4 / 6)
    assert found.gain.mean == pytest.approx(1 / 6)
    assert (found.fixed, found.broken) == (2, 1)
    assert found.unjudged == pytest.approx(1 / 6)
    assert found.mean_turns == 9 / 6
    assert found.calibration is None
    whole, first, second = found.turns
    assert (first.solutions, second.solutions, whole.solutions) == (6, 3, 9)
    assert (first.accuracy, second.accuracy) == (0.5, 2 / 3)
    # turn 1: right are a, d, e (yes, no, nothing); wrong are b, c, f (yes, no, no)
    assert (first.true_yes, first.true_no) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (second.true_yes, second.true_no) == (1.0, 0.0)
    assert (whole.true_yes, whole.true_no) == (pytest.approx(3 / 5), pytest.approx(2 / 4))
    assert "2 fixed, 1 broken" in found.line()
    assert json.loads(json.dumps(found.to_json()))["turns"][2]["solutions"] == 3


def test_rates_are_none_where_there_is_nothing_to_say() -> None:
    found = turn_metrics({"a": [RIGHT_YES, RIGHT_YES]})
    assert found is not None
    assert (found.turns[0].true_yes, found.turns[0].true_no) == (1.0, None)
    assert "true no -" in found.line()
    assert turn_metrics({}) is None
    assert turn_metrics({"a": [Scored(1.0, True)], "b": [Infra("x")]}) is None


def test_calibration_is_the_mean_gap_of_the_bins() -> None:
    """Bins [.9, 1): said .95 twice, right once; [.1, .2): said .1 once, wrong."""
    outcomes: dict[str, Any] = {"a": [RIGHT_YES, WRONG_YES], "b": [FIXED]}
    chances = {"a": [{"1": 0.95}, {"1": 0.95}], "b": [{"1": 0.1}]}
    found = turn_metrics(outcomes, chances)
    assert found is not None
    assert found.calibration == pytest.approx((abs(1.9 - 1) + abs(0.1 - 0)) / 3)
    perfect = turn_metrics(outcomes, {"a": [{"1": 1.0}, {"1": 0.0}], "b": [{"1": 0.0, "2": 1.0}]})
    assert perfect is not None
    assert perfect.calibration == 0


def test_sampled_verdicts_come_with_their_chance() -> None:
    """A model of random weights whose logits for Yes and No are set by hand."""
    tokenizer = Tokenizer.train([f"#### 4\n{YES}\n{NO}"] * 50, 300)
    shape = ModelConfig(
        family="llama3", vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=1,
        num_heads=2, num_kv_heads=2, head_dim=16, intermediate_size=32, max_positions=256,
    )  # fmt: skip
    env = load_environment("math", SETTINGS)
    script = tokenizer.encode(f"#### 1\n{YES}")
    sampler, meet = local_policy(build(shape).eval(), tokenizer, 0)
    original = sampler.sample

    async def scripted(prompt: Any, params: Any, key: Any, pictures: Any = ()) -> Any:
        done = await original(prompt, params, key)  # the rendezvous must see every episode
        logprobs = [0.0] * (len(script) - 1) + [-0.5]
        return type(done)(tuple(script), tuple(logprobs), 0, "stop")

    sampler.sample = scripted  # type: ignore[method-assign]
    found = evaluate(env, {"agent": sampler}, n=20, params=SamplingParams(8), meet=meet)
    assert found.turns is not None
    assert found.turns.mean_turns == 1
    right = found.turns.first.mean
    assert found.turns.calibration == pytest.approx(abs(2.718281828**-0.5 - right), abs=1e-6)
    assert found.tokens == len(script)


def test_an_endpoint_whose_answers_have_the_form(tmp_path: Path, capsys: Any) -> None:
    """Right at once, corrected, broken or blind by the problem; goes on behind Yes like many do."""
    env = load_environment("math", SETTINGS)
    known = {env.task("test", i).messages[-1].text: env.task("test", i) for i in range(40)}
    kinds = {q: i % 4 for i, q in enumerate(known)}

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        question = body["messages"][-1]["content"]
        assert "stop" not in body  # it would leave the verdict out
        if question not in known:
            return 200, said("yes")
        right = f"#### {known[question].hidden['problem'].answer}"
        text = (
            f"{right}\n{YES}\nand so on\n{NO}",
            f"{right}1\n{NO}\n{right}\n{YES}",
            f"{right}\n{NO}\n{right}1\n{YES}",
            f"{right}1\n{YES}",
        )[kinds[question]]
        return 200, said(text)

    with serving(answer) as url:
        found = puna.eval(url, "math", n=40, settings=SETTINGS, out=tmp_path, max_tokens=64)
        again = puna.eval(url, "math", n=40, settings=SETTINGS, out=tmp_path, max_tokens=64)
    turns = found.result.turns
    assert turns is not None
    assert (turns.first.mean, turns.final.mean) == (0.5, 0.5)
    assert (turns.fixed, turns.broken) == (10, 10)
    assert (turns.turns[1].true_yes, turns.turns[1].true_no) == (0.5, 0.5)
    assert turns.calibration is None
    assert again.result.turns == turns  # read back from the journal
    kept = json.loads((found.directory / "result.json").read_text())
    assert kept["turns"]["fixed"] == 10
    print_result(found)
    assert "10 fixed, 10 broken" in " ".join(capsys.readouterr().out.split())


def test_the_vote_of_several_answers_is_reported(tmp_path: Path) -> None:
    settings = SETTINGS | {"turns": 1}
    env = load_environment("math", settings)
    known = {env.task("test", i).messages[-1].text: env.task("test", i) for i in range(30)}
    count: dict[str, int] = {}
    asked = threading.Lock()

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        question = body["messages"][-1]["content"]
        if question not in known:
            return 200, said("yes")
        with asked:  # requests come in threads of their own
            number = count[question] = count.get(question, 0) + 1
        right = known[question].hidden["problem"].answer
        # two of three are right; two of three wrong answers differ
        odd = stream(0, question).random() < 0.5
        first = "1" if odd else str(number)
        wrong = f"#### {right}{first}"
        return 200, said(wrong if (number < 3) == odd else f"#### {right}")

    with serving(answer) as url:
        found = puna.eval(url, "math", n=30, k=3, settings=settings, out=tmp_path, max_tokens=64)
    # odd: two equal wrong ones and a right one; else two right ones and a wrong one
    share = sum(stream(0, q).random() >= 0.5 for q in known) / 30
    assert found.result.majority is not None
    assert found.result.majority.mean == pytest.approx(share)
    assert found.result.turns is None
    assert found.result.score.value.mean == pytest.approx((2 * share + (1 - share)) / 3)
