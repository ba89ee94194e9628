"""DPO makes the chosen side likelier than the rejected, from rows and from the model's episodes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import finish, killed, metrics, run, write_recipe, write_stage

from puna.core.messages import Message
from puna.text.template import Rendered
from puna.train import dpo
from puna.train.loop import Trainer
from puna.train.pairs import Pair, cut_pairs, pair_batch
from puna.train.preferences import Preference, tokenise

CONFIG = dpo.Config(batch_pairs=8)


def preference(n):
    said = ("yes " * (n % 3 + 1), "no" * (n % 4 + 1))
    sides = ((Message.assistant(text),) for text in said)
    return Preference((Message.user(f"is it {n}?"),), *sides)


@pytest.fixture
def make(ctx, new_model, tokenizer):
    def loop(config=CONFIG, pairs=None, reference=0, steps=9, **shape):
        pairs = pairs or [tokenise(tokenizer, preference(n)) for n in range(11)]
        trainer = Trainer(ctx, new_model(**shape), tokenizer, config.optim, steps, steps)
        return dpo._Loop(ctx, config, None, trainer, new_model(reference, **shape), pairs)

    return loop


def gradients(loop, step=0):
    figures = loop.backward(step)
    return figures, {n: p.grad.clone() for n, p in loop.trainer.model.named_parameters()}


@torch.no_grad()
def logp(model, side, skip=()):
    """Log-probabilities of a side's learnt tokens, each part of it alone."""
    out = []
    for part in side:
        ids = torch.tensor([part.ids])
        logits = model.logits(model(ids[:, :-1]))[0]
        found = torch.log_softmax(logits.double(), -1).gather(1, ids[0, 1:, None])[:, 0]
        wanted = zip(found.tolist(), part.ids[1:], part.mask[1:], strict=True)
        out += [x for x, i, learnt in wanted if learnt and i not in skip]
    return out


def expected(loop, skip):
    """Loss, margin and share of margins above 0 of step 0: every side alone, in plain Python."""
    losses, margins = [], []
    for pair in loop.batch(0):
        ratios = [
            sum(logp(loop.trainer.model, side, skip)) - sum(logp(loop.reference, side, skip))
            for side in (pair.chosen, pair.rejected)
        ]
        margins.append(0.1 * (ratios[0] - ratios[1]))
        chosen = logp(loop.trainer.model, pair.chosen)
        nll = -sum(chosen) / len(chosen)
        losses.append(math.log(1 + math.exp(-margins[-1])) + 0.2 * nll)
    n = len(losses)
    return sum(losses) / n, sum(margins) / n, sum(m > 0 for m in margins) / n


@pytest.mark.parametrize("shape", [{}, {"num_experts": 0}], ids=["experts", "dense"])
def test_the_loss_is_the_mean_over_the_pairs(make, tokenizer, shape):
    """Against every side alone, unpadded and unbatched; ends of turns count in the NLL alone."""
    loop = make(reference=1, **shape)
    figures, _ = gradients(loop)
    loss, margin, accuracy = expected(loop, skip={tokenizer.special("eot")})
    assert figures["loss"] == pytest.approx(loss, rel=1e-4)
    assert figures["margin"] == pytest.approx(margin, rel=1e-3, abs=1e-5)
    assert figures["accuracy"] == accuracy
    assert abs(expected(loop, skip=())[1] - margin) > 0.01  # were they not left out
    assert figures["tokens"] == sum(
        len(side[0].ids) for p in loop.batch(0) for side in (p.chosen, p.rejected)
    )


def test_at_the_reference_margins_are_exactly_zero(make):
    figures, _ = gradients(make(replace(CONFIG, nll=0.0)))
    assert figures["margin"] == 0
    assert figures["accuracy"] == 0
    assert figures["loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_headers_and_ends_are_formatting_and_calls_are_not(make, tokenizer):
    loop = make()
    names = ("header_start", "header_end", "eot", "python_start")
    ids = [tokenizer.special("begin_of_text"), *map(tokenizer.special, names), 65]
    side = (Rendered(ids, [False] + [True] * (len(ids) - 1)),)
    batch = pair_batch([Pair(side, side)], loop.formatting, torch.device("cpu"))
    assert batch.content_M.tolist() == [False, False, False, True, True] * 2
    assert batch.sizes == [5, 5]


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("micro_tokens", [1, 60])
def test_micro_batches_change_nothing(make, micro_tokens, lanes):
    big, grads = gradients(make(replace(CONFIG, micro_tokens=10_000), reference=1))
    loop = make(replace(CONFIG, micro_tokens=micro_tokens), reference=1)
    loop.trainer.lanes.count = lanes
    small, parts = gradients(loop)
    assert small == pytest.approx(big, rel=1e-5, abs=1e-6)
    for name in grads:
        torch.testing.assert_close(parts[name], grads[name], atol=1e-6, rtol=1e-4)


def test_lots_hold_every_pair_once_within_the_budget(make):
    pairs = make().pairs
    lots = list(cut_pairs(pairs, 100))
    assert len(lots) > 1
    assert sorted(id(p) for lot in lots for p in lot) == sorted(map(id, pairs))
    for lot in lots:
        assert len(lot) == 1 or 2 * len(lot) * (max(p.longest for p in lot) - 1) <= 100


def test_a_side_of_several_branches_is_their_sum(make, tokenizer):
    """An episode whose history was not append-only has several runs of tokens."""
    one, two = (tokenise(tokenizer, preference(n)) for n in (1, 2))
    both = Pair((*one.chosen, *two.chosen), one.rejected)
    loop = make(replace(CONFIG, batch_pairs=1), [both], reference=1)
    figures, _ = gradients(loop)
    loss, margin, _ = expected(loop, skip={tokenizer.special("eot")})
    assert figures["loss"] == pytest.approx(loss, rel=1e-4)
    assert figures["margin"] == pytest.approx(margin, rel=1e-3)


def test_an_update_raises_the_chosen_over_the_rejected(make):
    """Without the NLL term too."""
    loop = make(replace(CONFIG, nll=0.0), steps=8)
    before = [sum(logp(loop.reference, p.chosen)) - sum(logp(loop.reference, p.rejected))
              for p in loop.pairs]  # fmt: skip
    loop.trainer.optim = replace(loop.trainer.optim, lr=2e-3)
    loop.trainer.run(loop.backward, "loss")
    model = loop.trainer.model
    after = [sum(logp(model, p.chosen)) - sum(logp(model, p.rejected)) for p in loop.pairs]
    assert all(b > a for a, b in zip(before, after, strict=True))


def test_every_pair_once_an_epoch(make):
    loop = make()
    seen = [loop.pairs.index(p) for step in range(11) for p in loop.batch(step)]
    assert sorted(seen[:11]) == list(range(11))
    assert all(seen.count(i) == 8 for i in range(11))


@pytest.mark.parametrize(
    "wrong", [{"beta": 0}, {"nll": -1}, {"samples": 1}, {"batch_pairs": 0}, {"temperature": 0}]
)
def test_settings_that_teach_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dpo.Config(**wrong)


# Through the command, with a model that a tiny run has raised.

EVEN = '''
from puna import Problem, SingleTurn
from puna.core.outcome import Scored


class Even(SingleTurn):
    """Pays where the answer's bytes add up to an even number, cut off or not."""

    name = "even"

    def make(self, rng):
        return Problem(f"{rng.integers(1000)}?", "0")

    def judge(self, episodes, hidden, ctx):
        values = [PAY for e in episodes]
        return [{"agent": Scored(float(v), bool(v))} for v in values]
'''
ROW = {"prompt": "2+2=", "chosen": "4", "rejected": "five"}
ROWS = [ROW, {"chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}],
              "rejected": [{"role": "user", "content": "hi"},
                           {"role": "assistant", "content": "b c d"}]}] * 3  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("start")
    recipe = write_recipe(where / "recipe")
    killed(recipe, where / "run", "stage.tidied:2")
    return where / "run" / "sft" / "model"


def stage(directory: Path, start: Path, **settings) -> Path:
    table = {"batch_tokens": None, "steps": 6, "batch_pairs": 4} | settings
    return write_stage(directory, "dpo", start, **table)


def from_rows(directory: Path, start: Path, *lines, **settings) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return stage(directory, start, data=str(directory / "pairs.jsonl"), **settings)


def from_episodes(directory: Path, start: Path, pay="1 - sum(e.said().encode()) % 2", **settings):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "even.py").write_text(EVEN.replace("PAY", pay))
    table = {"prompts": 6, "samples": 4, "eval_tasks": 4} | settings
    return stage(directory, start, env=str(directory / "even.py"), **table)


def result(directory: Path) -> dict:
    return json.loads((directory / "dpo" / "stage.json").read_text())["result"]


def test_rows_raise_the_margin(start, tmp_path):
    recipe = from_rows(tmp_path, start, *ROWS)
    finish(recipe, tmp_path / "run")
    told = metrics(tmp_path / "run", "dpo")
    assert (told[1]["margin"], told[1]["accuracy"]) == (0, 0)
    assert told[6]["margin"] > told[3]["margin"] > 0
    assert told[6]["accuracy"] == 1
    gap = [told[s]["chosen_logp"] - told[s]["rejected_logp"] for s in (1, 6)]
    assert gap[1] > gap[0]
    assert (result(tmp_path / "run")["pairs"], result(tmp_path / "run")["epochs"]) == (6, 4.0)


def test_no_steps_given_is_once_through_all_pairs(start, tmp_path):
    recipe = from_rows(tmp_path, start, *ROWS, ROW, steps=None, batch_pairs=3)
    finish(recipe, tmp_path / "run")
    assert result(tmp_path / "run")["steps"] == 3


def test_episodes_raise_the_margin_and_are_counted(start, tmp_path):
    recipe = from_episodes(tmp_path, start)
    finish(recipe, tmp_path / "run")
    told, found = metrics(tmp_path / "run", "dpo"), result(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "dpo" / "pairs.json").read_text())
    assert told[6]["margin"] > told[1]["margin"] == 0
    assert found["pairs"] >= 3
    assert (found["tasks"], found["not_scored"]) == (6, 0)
    assert found["tasks_without_pair"] == 6 - found["pairs"]
    assert len(record["pairs"]) == found["pairs"]
    assert told[1]["cpu"] > record["cpu"] > 0  # what playing cost is counted


@pytest.mark.parametrize("points", [
    ("pairs.written:1", "pairs.renamed:1", "checkpoint.renamed:1", "metrics.appended:1"),
    ("checkpoint.written:2", "stage.trained:1", "model.renamed:1"),
])  # fmt: skip
def test_killed_it_ends_with_the_same_weights(start, tmp_path, points):
    recipe = from_episodes(tmp_path, start, eval_every=2)
    weights = finish(recipe, tmp_path / "whole")["dpo"]
    for point in points:
        killed(recipe, tmp_path / "run", point)
    assert finish(recipe, tmp_path / "run")["dpo"] == weights
    other = finish(recipe, tmp_path / "other", "dpo.beta=0.2")["dpo"]
    assert other != weights  # equal digests are not a matter of course


def test_the_reference_is_the_parent_after_a_kill_too(start, tmp_path):
    """Were the resumed weights the reference, margins would begin at 0 again."""
    recipe = from_rows(tmp_path, start, *ROWS)
    finish(recipe, tmp_path / "whole")
    killed(recipe, tmp_path / "run", "checkpoint.renamed:1")
    finish(recipe, tmp_path / "run")
    whole, resumed = (metrics(tmp_path / d, "dpo")[4]["margin"] for d in ("whole", "run"))
    assert whole == resumed > 0


def test_the_best_weights_are_kept(start, tmp_path):
    """Every score on the way is the same, so the first is the best and patience ends the stage."""
    recipe = from_episodes(tmp_path, start, eval_every=1, patience=2)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "even.py").write_text(EVEN.replace("PAY", "1"))
    told = finish(recipe, tmp_path / "run", f"dpo.data={tmp_path / 'pairs.jsonl'}")
    found = result(tmp_path / "run")
    assert (found["best_held_out"], found["best_step"], found["steps"]) == (1.0, 1, 3)
    assert found["stopped_rising"]
    one = from_rows(tmp_path / "one", start, *ROWS, steps=1, optim={"lr": 2e-3, "warmup": 1})
    assert finish(one, tmp_path / "one" / "run") == told


def test_pairs_of_another_parent_are_not_taken(start, tmp_path):
    recipe = from_episodes(tmp_path, start)
    killed(recipe, tmp_path / "run", "pairs.renamed:1")
    path = tmp_path / "run" / "dpo" / "pairs.json"
    record = json.loads(path.read_text())
    stale = record | {"key": "another", "pairs": record["pairs"][:1]}
    path.write_text(json.dumps(stale))
    assert finish(recipe, tmp_path / "run") == finish(recipe, tmp_path / "fresh")


def test_rows_that_are_wrong_are_one_line(start, tmp_path):
    recipe = from_rows(tmp_path, start, ROW, ROW | {"rejected": "4"})
    line = run(recipe, tmp_path / "run").error
    assert "pairs.jsonl line 2: chosen and rejected are equal" in line
    recipe = from_rows(tmp_path / "long", start, ROW, row_length=5)
    line = run(recipe, tmp_path / "run-long").error
    assert "dpo: no pair fits row_length 5; raise dpo.row_length" in line
    recipe = stage(tmp_path / "none", start)
    line = run(recipe, tmp_path / "run-none").error
    assert "dpo: no data; give --set dpo.data=FILE or dpo.env=NAME" in line


@pytest.mark.parametrize(
    ("pay", "said"),
    [("1", "none won and lost"), ("0", "none won and lost"), ("1 / 0", "division by zero")],
)
def test_episodes_without_a_pair(start, tmp_path, pay, said):
    done = run(from_episodes(tmp_path, start, pay), tmp_path / "run")
    assert done.code == 1
    (line,) = [x for x in done.err.splitlines() if x.startswith("puna: ")]
    assert "dpo: 6 of 6 tasks of even gave no pair" in line
    assert said in line
    assert "raise dpo.prompts" in line


def test_parquet_rows_give_the_same_weights(start, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    recipe = from_rows(tmp_path, start, *[ROWS[1], ROWS[1]], steps=2)
    pq.write_table(pa.Table.from_pylist([ROWS[1]] * 2), tmp_path / "pairs.parquet")
    other = f"dpo.data={tmp_path / 'pairs.parquet'}"
    assert finish(recipe, tmp_path / "a") == finish(recipe, tmp_path / "b", other)
