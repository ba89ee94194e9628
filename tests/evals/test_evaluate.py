"""evaluate(): killed and resumed, replayed where the machinery failed, whatever the workers."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.core.errors import UserError
from puna.core.journal import read
from puna.core.messages import Message
from puna.core.outcome import Infra, Scored
from puna.core.stats import task_means
from puna.engine.policy import EndpointError, Reply, SamplingParams, Usage
from puna.envs.arithmetic.env import Arithmetic
from puna.envs.arithmetic.env import evaluate as value_of
from puna.evals.evaluate import (
    EvalResult,
    all_there_are,
    evaluate,
    failures,
    local_policy,
)
from puna.gym.environment import OneTurn, Turn
from puna.gym.registry import load_environment
from puna.gym.task import Task
from puna.gym.trajectory import Trajectory
from puna.models import ModelConfig, build
from puna.text.tokenizer import Tokenizer

ENV = load_environment("arithmetic", {"terms": 3})


class Pupil:
    """Right unless the sum is a multiple of three; fails on the calls in `down`."""

    def __init__(self, down: range = range(0), costs: float | None = None) -> None:
        self.asked: list[str] = []
        self.down, self.costs = down, costs

    async def chat(self, messages: Any, tools: Any = (), **_: Any) -> Reply:
        text = messages[-1].text
        self.asked.append(text)
        if len(self.asked) - 1 in self.down:
            raise EndpointError("connection refused")
        value = value_of(text.rstrip("="))
        said = str(value + (value % 3 == 0))
        return Reply(Message.assistant(said), usage=Usage(10, 1, self.costs))


class Stopped(Exception):
    pass


def stop_after(count: int) -> Any:
    def progress(done: int, total: int, mean: float) -> None:
        if done >= count:
            raise Stopped

    return progress


def score_of(found: EvalResult) -> Any:
    tags = {name: score.to_json() for name, score in found.by_tag.items()}
    return found.score.to_json(), tags, found.outcomes


def test_scores_tags_and_usage() -> None:
    pupil = Pupil(costs=0.5)
    found = evaluate(ENV, {"agent": pupil}, n=60, k=2)
    right = [value_of(ENV.task("test", i).key.rstrip("=")) % 3 != 0 for i in range(60)]
    assert found.score.value is not None
    assert found.score.value.mean == pytest.approx(sum(right) / 60)
    assert (found.score.n_tasks, found.score.k, found.score.n_infra) == (60, 2, 0)
    assert set(found.by_tag) == {"terms=2", "terms=3"}
    assert sum(s.n_tasks for s in found.by_tag.values()) == 60
    assert task_means(found.outcomes["agent"])["arithmetic/test/0"] == float(right[0])
    assert found.usage == {"sampled_tokens": 120, "prompt_tokens": 1200, "cost": 60.0}
    assert len(pupil.asked) == 120


def test_killed_halfway_only_the_missing_tasks_are_played(tmp_path: Path) -> None:
    whole = evaluate(ENV, {"agent": Pupil()}, n=20)
    journal = tmp_path / "e.jsonl"
    with pytest.raises(Stopped):
        evaluate(ENV, {"agent": Pupil()}, n=20, journal=journal, progress=stop_after(9))
    done = [r["index"] for r in read(journal)]
    assert done == list(range(9))
    with open(journal, "ab") as f:
        f.write(b'{"index": 9, "k": 1, "outc')  # and the tail is torn
    pupil = Pupil()
    found = evaluate(ENV, {"agent": pupil}, n=20, journal=journal)
    assert sorted(pupil.asked) == sorted(ENV.task("test", i).key for i in range(9, 20))
    assert score_of(found) == score_of(whole)
    again = Pupil()
    assert score_of(evaluate(ENV, {"agent": again}, n=20, journal=journal)) == score_of(whole)
    assert again.asked == []


def test_what_the_machinery_spoiled_is_played_again(tmp_path: Path) -> None:
    journal = tmp_path / "e.jsonl"
    first = evaluate(ENV, {"agent": Pupil(range(4, 7))}, n=12, k=2, journal=journal, concurrency=1)
    assert first.score.n_infra == 3
    assert first.score.n_scored == 21
    assert failures(first.outcomes["agent"]) == ["connection refused"]
    spoiled = [t for t, os in first.outcomes["agent"].items() if Infra in map(type, os)]
    assert len(spoiled) == 2
    pupil = Pupil()
    second = evaluate(ENV, {"agent": pupil}, n=12, k=2, journal=journal)
    assert len(pupil.asked) == 4
    assert score_of(second) == score_of(evaluate(ENV, {"agent": Pupil()}, n=12, k=2))


def test_infra_is_counted_and_never_0() -> None:
    perfect = [i for i in range(200) if value_of(ENV.task("test", i).key.rstrip("=")) % 3]
    first = next(i for i in perfect if i + 1 in perfect and i + 2 in perfect)
    found = evaluate(ENV, {"agent": Pupil(range(1))}, n=3, first=first, concurrency=1)
    assert found.score.value is not None
    assert found.score.value.mean == 1.0
    assert (found.score.n_infra, found.score.n_scored) == (1, 2)
    assert found.score.counted_zero == pytest.approx(2 / 3)
    nothing = evaluate(ENV, {"agent": Pupil(range(99))}, n=3)
    assert nothing.score.value is None
    assert "no score" in nothing.score.line()


def test_a_journal_gives_only_the_tasks_that_were_asked_for(tmp_path: Path) -> None:
    journal = tmp_path / "e.jsonl"
    evaluate(ENV, {"agent": Pupil()}, n=30, journal=journal)
    pupil, seen = Pupil(), []
    show = lambda *x: seen.append(x[:2])  # noqa: E731
    found = evaluate(ENV, {"agent": pupil}, n=6, first=27, journal=journal, progress=show)
    assert found.score.n_tasks == 6
    assert set(found.outcomes["agent"]) == {f"arithmetic/test/{i}" for i in range(27, 33)}
    assert len(pupil.asked) == 3
    assert seen[-1] == (6, 6)


def test_records_of_other_tasks_are_not_taken_for_these(tmp_path: Path) -> None:
    """Another k, other settings of the environment, another split: the same index means nothing."""
    journal = tmp_path / "e.jsonl"
    evaluate(ENV, {"agent": Pupil()}, n=4, journal=journal)
    other = load_environment("arithmetic", {"terms": 2})
    for env, more in ((ENV, {"k": 2}), (other, {}), (ENV, {"split": "train"})):
        pupil = Pupil()
        evaluate(env, {"agent": pupil}, n=4, journal=journal, **more)
        assert len(pupil.asked) == 4 * more.get("k", 1)
        for text in pupil.asked:
            assert text in {env.task(more.get("split", "test"), i).key for i in range(4)}


def test_records_of_other_weights_are_not_taken_for_these(tmp_path: Path) -> None:
    journal = tmp_path / "e.jsonl"
    evaluate(ENV, {"agent": Pupil()}, n=4, journal=journal, policy="one")
    for policy, asked in (("one", 0), ("two", 4), ("one", 0), ("", 4)):
        pupil = Pupil()
        evaluate(ENV, {"agent": pupil}, n=4, journal=journal, policy=policy)
        assert len(pupil.asked) == asked


def test_a_split_without_such_tasks_is_one_line() -> None:
    with pytest.raises(UserError, match="arithmetic has no tasks 10000 to 10005"):
        evaluate(ENV, {"agent": Pupil()}, n=5, first=10_000)


def small() -> Any:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["0123456789 + - ="] * 3, 300)
    model = build(
        ModelConfig(
            family="llama4", vocab_size=300, hidden_size=32, num_layers=2, num_heads=4,
            num_kv_heads=2, head_dim=8, intermediate_size=64, expert_size=32, num_experts=4,
            attention_chunk=16, nope_every=2, max_positions=128, initializer_range=0.2,
        )
    )  # fmt: skip
    return model.eval(), tokenizer


def test_workers_and_interruptions_decide_nothing_with_a_local_model(tmp_path: Path) -> None:
    model, tokenizer = small()

    def local(name: str, workers: int = 2, **more: Any) -> Any:
        sampler, meet = local_policy(model, tokenizer, 3)
        found = evaluate(
            ENV, {"agent": sampler}, n=10, k=3, params=SamplingParams(6), meet=meet,
            workers=workers, journal=tmp_path / name, **more,
        )  # fmt: skip
        records = sorted(read(tmp_path / name), key=lambda r: r["index"])
        return score_of(found), [(r["outcomes"], r["transcripts"]) for r in records]

    one, four = local("one", 1), local("four", 4)
    assert one == four
    assert len({json.dumps(t) for _, ts in one[1] for t in ts}) > 10  # the samples do differ
    with pytest.raises(Stopped):
        local("cut", progress=stop_after(4))
    assert local("cut") == one


def test_surprisal_is_the_entropy_of_what_is_drawn(tmp_path: Path) -> None:
    """Of a model that finds all tokens alike it is the logarithm of their number."""
    model, tokenizer = small()

    def surprisal(temperature: float = 1.0, **more: Any) -> float | None:
        sampler, meet = local_policy(model, tokenizer, 3)
        params = SamplingParams(6, temperature)
        found = evaluate(ENV, {"agent": sampler}, n=8, k=4, params=params, meet=meet, **more)
        assert found.extras().get("surprisal") == found.surprisal
        return found.surprisal

    certain, usual = surprisal(0.5), surprisal(1.0)
    assert certain is not None
    assert usual is not None
    assert certain < usual - 0.1  # sharper, and as likely as it was drawn
    with pytest.raises(Stopped):
        surprisal(journal=tmp_path / "cut", progress=stop_after(3))
    assert surprisal(journal=tmp_path / "cut") == pytest.approx(usual, rel=1e-6)
    torch.nn.init.zeros_(model.embed)
    assert surprisal(1.0) == pytest.approx(math.log(model.config.vocab_size), rel=1e-5)
    assert evaluate(ENV, {"agent": Pupil()}, n=4).surprisal is None


def test_a_seed_decides_the_samples(tmp_path: Path) -> None:
    model, tokenizer = small()

    def said(seed: int) -> list[Any]:
        sampler, meet = local_policy(model, tokenizer, seed)
        path = tmp_path / str(seed)
        evaluate(ENV, {"agent": sampler}, n=2, params=SamplingParams(6), meet=meet, journal=path)
        return [r["transcripts"] for r in read(path)]

    assert said(1) != said(2)


def test_a_verifier_that_raises_is_infra(tmp_path: Path) -> None:
    path = tmp_path / "e.py"
    path.write_text(
        "from puna.envs.arithmetic.env import Arithmetic\n"
        "class E(Arithmetic):\n    name = 'broken'\n"
        "    def score(self, answer, problem):\n        raise KeyError('gone')\n"
    )
    found = evaluate(load_environment(str(path)), {"agent": Pupil()}, n=3)
    assert (found.score.n_infra, found.score.n_scored) == (3, 0)
    (reason,) = {re.sub(r"test/\d", "test/N", f) for f in failures(found.outcomes["agent"])}
    assert reason.startswith("the verifier of broken on broken/test/N raised KeyError('gone') at")


def test_means_leave_out_what_was_not_scored() -> None:
    rows = {"a": [Scored(1.0, True), Infra("x"), Scored(0.0, False)], "b": [Infra("x")]}
    assert task_means(rows) == {"a": 0.5}


class Books(OneTurn):
    """What was said goes into a book, which no text holds whole: these bytes are no UTF-8."""

    said = ""

    def take(self, turn: Turn, message: Message) -> None:
        super().take(turn, message)
        self.said = message.text

    def artifacts(self) -> dict[str, bytes]:
        return {"book": b"\xff\x00" + self.said.encode(), "rules": b"the same in every episode"}


class Bookkeeping(Arithmetic):
    """Judged by the book alone."""

    name = "bookkeeping"

    def start(self, task: Task, resources: Any, ctx: Any) -> Books:
        return Books(task)

    def judge(self, episodes: Any, hidden: Any, ctx: Any) -> Any:
        right = b"\xff\x00" + hidden["problem"].answer.encode()
        kept = [e.artifacts.get("book") == right for e in episodes]
        return [{"agent": Scored(float(yes), yes)} for yes in kept]


def again(record: dict[str, Any], artifacts: Path | None) -> list[Any]:
    """The outcomes of a journal's record, judged anew from what was kept."""
    env, episodes = Bookkeeping(), []
    for sample in range(record["k"]):
        one = {key: record[key][sample] for key in ("outcomes", "usage", "ended", "artifacts")}
        one |= {"sample": sample, "transcript": record["transcripts"][sample]}
        episodes.append(Trajectory.from_json({**record, **one}, artifacts).episode)
    return list(env.judge(episodes, env.task("test", record["index"]).hidden, None))


def test_kept_artifacts_can_be_judged_again(tmp_path: Path) -> None:
    journal = tmp_path / "result" / "e.jsonl"
    found = evaluate(Bookkeeping(), {"agent": Pupil()}, n=12, k=2, journal=journal)
    assert found.score.value is not None
    assert 0 < found.score.value.mean < 1
    kept = {p.name: p.read_bytes() for p in (journal.parent / "artifacts").iterdir()}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in kept.items())
    assert list(kept.values()).count(b"the same in every episode") == 1  # once for all episodes
    for record in read(journal):
        wanted = found.outcomes["agent"][record["task"]]
        assert [o["agent"] for o in again(record, journal.parent / "artifacts")] == wanted
        without = [o["agent"].value for o in again(record, None)]
        assert without == [0.0, 0.0]  # so it was the books that were judged


def test_artifacts_are_there_before_the_record_that_names_them(tmp_path: Path) -> None:
    journal = tmp_path / "e.jsonl"
    with pytest.raises(Stopped):
        evaluate(Bookkeeping(), {"agent": Pupil()}, n=9, journal=journal, progress=stop_after(4))
    records = list(read(journal))
    assert len(records) == 4
    for record in records:
        again(record, tmp_path / "artifacts")


def test_without_a_journal_or_artifacts_nothing_is_written(tmp_path: Path) -> None:
    evaluate(Bookkeeping(), {"agent": Pupil()}, n=2)
    evaluate(ENV, {"agent": Pupil()}, n=2, journal=tmp_path / "e.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["e.jsonl"]


def test_more_tasks_than_there_are_is_said() -> None:
    there = ENV.count("test")
    assert all_there_are(ENV, there) == ""
    said = "arithmetic has 1,500 test tasks, not 1,501: all are played"
    assert (there, all_there_are(ENV, there + 1)) == (1500, said)
