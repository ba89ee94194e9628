"""The in-process engine: the trainer's log-probabilities, draws that depend on requests alone."""

from __future__ import annotations

import asyncio
import copy
import itertools
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from puna.core.rng import stream
from puna.engine.batch import Batch
from puna.engine.local import Engine, Request, Running
from puna.engine.policy import Completion, SamplingParams
from puna.engine.rendezvous import LocalSampler, Rendezvous
from puna.engine.sampling import Drawing
from puna.models import Decoder, ModelConfig, build
from puna.models.moe import Routes
from puna.text.tokenizer import Tokenizer
from puna.train.loss import token_logprobs
from puna.train.optim import OptimConfig, make_optimizer

CLOSE = 1e-5
TOKENIZER = Tokenizer.train(["the llama of the puna"] * 3, 300)
DENSE = ModelConfig(
    family="llama3", vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=8, intermediate_size=64, max_positions=128,
)  # fmt: skip
CHUNKED = replace(
    DENSE, family="llama4", attention_chunk=8, nope_every=2, qk_norm=True,
    temperature_tuning=True, floor_scale=4,
)  # fmt: skip
MOE = replace(CHUNKED, num_experts=4, expert_size=32, moe_every=1)
SHAPES = {"dense": DENSE, "chunked": CHUNKED, "moe": MOE}


@cache
def model(shape: str, scale: float = 0.15) -> Decoder:
    torch.set_num_threads(1)
    made = build(SHAPES[shape]).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, scale, generator=generator)
    return made


def engine(shape: str = "dense", seed: int = 0, slots: int = 256) -> Engine:
    return Engine(model(shape), TOKENIZER, seed, slots)


def prompt(i: int, length: int) -> tuple[int, ...]:
    return tuple(stream(0, "prompt", i).integers(0, 256, length).tolist())


def requests(count: int = 12, most: int = 30, **params: float) -> list[Request]:
    """Prompts of 3 to 20 tokens, some twice, and limits of 6 to `most` tokens."""
    out = []
    for i in range(count):
        limit = 6 + (most - 6) * (i % 4) // 3
        given = SamplingParams(max_tokens=limit, **params)  # type: ignore[arg-type]
        length = 3 + 17 * (i // 2) // max(1, count // 2)
        out.append(Request(prompt(i // 2, length), given, ("k", i)))
    return out


@torch.no_grad()
def recomputed(
    made: Decoder, request: Request, done: Completion, replay: bool = True, heat: float = 1.0
) -> torch.Tensor:
    """The trainer's log-probabilities: one full forward pass over prompt and completion."""
    ids = torch.tensor([[*request.prompt_ids, *done.ids]])
    routes = None
    if done.routes is not None and replay:
        routes = Routes(replay=torch.from_numpy(np.asarray(done.routes))[None].long())
    logits = made.logits(made(ids[:, :-1], routes=routes))[0]
    return token_logprobs(logits, ids[0, 1:], heat)[len(request.prompt_ids) - 1 :]


def worst(made: Decoder, asked: list[Request], got: list[Completion], **how: object) -> float:
    gaps = [
        (recomputed(made, r, c, **how) - torch.tensor(c.logprobs)).abs().max().item()  # type: ignore[arg-type]
        for r, c in zip(asked, got, strict=True)
    ]
    return max(gaps)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_row_that_ended_may_stand_behind_all_others(shape: str) -> None:
    """At 256, the first position that no table of rotations has: the others go on as if alone."""
    long = replace(SHAPES[shape], max_positions=512)
    made = Decoder(long).eval()
    made.load_state_dict(model(shape).state_dict())
    few = SamplingParams(max_tokens=3)
    given = [Request(prompt(0, 254), few, ("long", 0))]
    given += [Request(prompt(i, 10), replace(few, max_tokens=30), ("k", i)) for i in range(1, 17)]
    together = Engine(made, TOKENIZER, 0).generate(given)
    assert len(together[0].ids) == 3
    for request, done in zip(given[1:3], together[1:3], strict=True):
        (alone,) = Engine(made, TOKENIZER, 0).generate([request])
        assert done.ids == alone.ids


@pytest.mark.parametrize("block", [2048, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_logprobs_are_the_trainers_across_chunks_and_batches(
    shape: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.engine.reading.PREFILL", block)
    asked = requests(14, 40)
    got = engine(shape).generate(asked)
    longest = max(len(r.prompt_ids) + len(c.ids) for r, c in zip(asked, got, strict=True))
    assert longest > 4 * 8  # several chunks
    assert worst(model(shape), asked, got) < CLOSE


def test_with_another_chunk_the_trainer_would_disagree() -> None:
    asked = requests(6, 40)
    got = engine("chunked").generate(asked)
    other = Decoder(replace(CHUNKED, attention_chunk=16)).eval()
    other.load_state_dict(model("chunked").state_dict())
    assert worst(other, asked, got) > 100 * CLOSE


@pytest.mark.parametrize("heat", [0.5, 2.0])
def test_logprobs_are_under_the_sampling_temperature(heat: float) -> None:
    asked = requests(6, temperature=heat)
    got = engine().generate(asked)
    assert worst(model("dense"), asked, got, heat=heat) < CLOSE
    assert worst(model("dense"), asked, got) > 100 * CLOSE


@pytest.mark.parametrize("block", [2048, 7])
def test_routes_are_recorded_for_every_token_the_trainer_reads(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.engine.reading.PREFILL", block)
    asked = requests(14, 40)
    for request, done in zip(asked, engine("moe").generate(asked), strict=True):
        assert done.routes is not None
        assert done.routes.shape == (len(request.prompt_ids) + len(done.ids) - 1, 2)
        routes = Routes()
        with torch.no_grad():
            model("moe")(torch.tensor([[*request.prompt_ids, *done.ids[:-1]]]), routes=routes)
        assert np.array_equal(routes.recorded[0].numpy(), done.routes)
    assert len(np.unique(np.concatenate([c.routes for c in engine("moe").generate(asked)]))) == 4


def test_replay_holds_where_the_routers_have_moved() -> None:
    """Other weights choose other experts; replayed, only the scores differ, and little."""
    asked = requests(8)
    got = engine("moe").generate(asked)
    moved = Decoder(MOE).eval()
    moved.load_state_dict(model("moe").state_dict())
    with torch.no_grad():
        for layer in moved.layers:
            layer.feed_forward.expert_bias.copy_(torch.tensor([0.3, 0.0, -0.3, 0.1]))  # type: ignore[operator,union-attr]
    assert worst(moved, asked, got, replay=True) < CLOSE
    assert worst(moved, asked, got, replay=False) > 1000 * CLOSE


def same(a: list[Completion], b: list[Completion]) -> None:
    for x, y in zip(a, b, strict=True):
        assert (x.ids, x.finish, x.version) == (y.ids, y.finish, y.version)
        assert np.allclose(x.logprobs, y.logprobs, rtol=0, atol=CLOSE)
        if x.routes is not None:
            assert np.array_equal(x.routes, y.routes)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_of_submission_is_nothing_to_the_last_bit(shape: str) -> None:
    asked = requests(20)
    first = engine(shape, slots=8).generate(asked)
    for order in ([*reversed(range(20))], stream(0, "order").permutation(20).tolist()):
        got = engine(shape, slots=8).generate([asked[i] for i in order])
        assert [got[order.index(i)].ids for i in range(20)] == [c.ids for c in first]
        assert [got[order.index(i)].logprobs for i in range(20)] == [c.logprobs for c in first]


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_mates_are_nothing(shape: str) -> None:
    asked = requests(20)
    together = engine(shape).generate(asked)
    same(together, [engine(shape).generate([r])[0] for r in asked])
    same(together, engine(shape, slots=5).generate(asked))


def test_a_row_that_ends_early_does_not_outgrow_the_cache() -> None:
    """A long prompt with room for one token beside a short one with room for many."""
    asked = [
        Request(prompt(0, 100), SamplingParams(1), ("a",)),
        Request(prompt(1, 4), SamplingParams(60), ("b", 1)),
    ]
    got = engine().generate(asked)
    assert [len(c.ids) for c in got] == [1, 60]
    same(got, [engine().generate([r])[0] for r in asked])


def turns(count: int, most: int, told: list[list[int]], turn: int) -> list[Request]:
    """The next turn of `count` conversations: what was said so far and a few tokens more."""
    out = []
    for i in range(count):
        told[i] += prompt(100 * turn + i, 1 + (3 * i + turn) % 7)
        params = SamplingParams(max_tokens=2 + (most - 2) * (i % 4) // 3)
        key = ("talk", i, "agent", turn)
        out.append(Request(tuple(told[i]), params, key, (), (f"talk/{i}", "agent")))
    return out


@pytest.mark.parametrize("block", [2048, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_turn_reads_only_what_is_new(
    shape: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.engine.reading.PREFILL", block)
    made = engine(shape)
    told: list[list[int]] = [list(prompt(i, 3 + i % 9)) for i in range(20)]
    for turn in range(4):
        asked = turns(20, 14, told, turn)
        if turn == 2:  # some are not there this time, some are new, some forget what was said
            new = replace(asked[0], key=("talk", 99, "agent", 2), conversation=("talk/99", "agent"))
            asked = [*asked[5:], new]
            told[7] = told[7][4:]
            asked[2] = replace(asked[2], prompt_ids=tuple(told[7]))
        before = made.prefilled_tokens
        got = made.generate(asked)
        read = made.prefilled_tokens - before
        assert worst(model(shape), asked, got) < CLOSE
        whole = sum(len(ids) for ids in {r.prompt_ids for r in asked})
        assert (read < 0.6 * whole) if turn else (read == whole), turn
        same(got, engine(shape).generate(asked))
        for request, done in zip(asked, got, strict=True):
            if request.key[1] != 99:
                told[int(request.key[1])] = [*request.prompt_ids, *done.ids]


def test_a_new_row_that_is_short_does_not_undo_it() -> None:
    made = engine("chunked")
    told: list[list[int]] = [list(prompt(i, 30)) for i in range(9)]
    for request, done in zip(first := turns(9, 6, told, 0), made.generate(first), strict=True):
        told[int(request.key[1])] += done.ids
    asked = [*turns(9, 6, told, 1), Request(prompt(50, 9), SamplingParams(5), ("new", 0))]
    before = made.prefilled_tokens
    got = made.generate(asked)
    assert made.prefilled_tokens - before < 9 * 9 + 9
    assert worst(model("chunked"), asked, got) < CLOSE


@pytest.mark.parametrize("mask", [1, 300, 1 << 24])
def test_blocks_are_small_where_rows_begin_at_different_places(
    mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.engine.reading.MASK", mask)
    monkeypatch.setattr("puna.engine.reading.ALIKE", mask)
    made = engine("chunked")
    widths = []
    forward = Decoder.forward
    monkeypatch.setattr(
        Decoder,
        "forward",
        lambda self, ids, *a, **k: widths.append(ids.shape[1]) or forward(self, ids, *a, **k),
    )
    told: list[list[int]] = [list(prompt(i, 20 + i)) for i in range(5)]
    for turn in range(2):
        widths.clear()
        asked = turns(5, 6, told, turn)
        got = made.generate(asked)
        assert worst(model("chunked"), asked, got) < CLOSE
        for i, done in enumerate(got):
            told[i] += done.ids
        if turn:
            longest = max(len(r.prompt_ids) for r in asked)
            assert max(widths[:-5]) <= max(1, mask // longest)


def test_what_an_episode_holds_is_forgotten_with_it() -> None:
    made = Engine(copy.deepcopy(model("chunked")), TOKENIZER, 0)
    meet = Rendezvous()
    sampler = LocalSampler(made, meet)
    optimizer = make_optimizer(made.model, OptimConfig(lr=0.1))

    async def play(turn_count: int) -> None:
        ids = list(prompt(0, 25))
        async with meet.episode("talk/0"):
            for turn in range(turn_count):
                before = made.prefilled_tokens
                request = Request(tuple(ids), SamplingParams(4), ("talk", 0, "agent", turn))
                done = await sampler.sample(ids, request.params, request.key)
                assert worst(made.model, [request], [done]) < CLOSE
                read = made.prefilled_tokens - before
                assert (read < 10) if turn else (read == len(ids))
                ids += [*done.ids, *prompt(turn, 5)]
            assert made.kept.bytes > 0
        made.generate([])
        made.step()
        assert made.kept.bytes == made.pages.used == 0

    asyncio.run(play(3))
    # The same names and beginnings under weights changed in place, as training changes them.
    made.model(torch.tensor([prompt(0, 9)])).sum().backward()
    optimizer.step()
    asyncio.run(play(2))


def test_weights_that_are_loaded_forget_all_and_a_batch_too_large_is_not_kept() -> None:
    made = engine("chunked")
    told: list[list[int]] = [list(prompt(i, 20)) for i in range(4)]
    made.generate(turns(4, 6, told, 0))
    held = made.kept.bytes
    assert 0 < held <= made.kept.limit
    made.kept.limit = held // 2
    made.generate(turns(4, 6, told, 1))
    assert 0 < made.kept.bytes <= made.kept.limit
    made.kept.limit = 0
    made.generate(turns(4, 6, told, 2))
    assert made.kept.bytes == 0
    made.kept.limit = 10 * held
    made.generate(turns(4, 6, told, 3))
    assert made.kept.bytes > 0
    made.load_weights(made.model.state_dict(), 7)
    assert made.kept.bytes == 0


def test_rows_that_ended_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch made anew at every end, now and then, and never while one row lives."""
    asked = requests(40, 40)
    made: list[int] = []
    real = Batch.__init__

    def counted(self: Batch, rows: list[Running], *given: object) -> None:
        made.append(len(rows))
        real(self, rows, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "__init__", counted)
    for shape in SHAPES:
        found = []
        for ended in (10**6, 8, 1):
            monkeypatch.setattr("puna.engine.batch.ENDED", ended)
            made.clear()
            found.append((len(made), engine(shape).generate(asked)))
            found[-1] = (len(made), found[-1][1])
        counts = [count for count, _ in found]
        assert counts[0] > counts[1] > counts[2] == 1
        same(found[0][1], found[1][1])
        same(found[0][1], found[2][1])
        assert worst(model(shape), asked, found[1][1]) < CLOSE


def test_equal_keys_equal_draws_and_others_others() -> None:
    ask = prompt(0, 5)

    def drawn(seed: int, *keys: tuple[int | str, ...]) -> list[tuple[int, ...]]:
        given = [Request(ask, SamplingParams(24), key) for key in keys]
        return [c.ids for c in engine(seed=seed).generate(given)]

    a, again, b = drawn(0, ("x", 1), ("x", 1), ("x", 2))
    assert a == again != b
    assert drawn(0, ("x", 1)) == [a]
    assert drawn(1, ("x", 1)) != [a]
    # a longer limit continues the same draws
    (longer,) = engine().generate([Request(ask, SamplingParams(50), ("x", 1))])
    assert longer.ids[:24] == a or len(a) < 24
    # keys that mix names and numbers can stand side by side
    assert len(drawn(0, ("x", 1), ("x", "a"), ("y",), (3,))) == 4


def chi_square(counts: np.ndarray, p: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic with rare tokens pooled, and its degrees of freedom."""
    n, order = counts.sum(), np.argsort(-p)
    common = order[p[order] * n >= 8]
    rest = np.setdiff1d(order, common)
    seen = np.append(counts[common], counts[rest].sum())
    expected = n * np.append(p[common], p[rest].sum())
    keep = expected > 0
    return float(((seen - expected)[keep] ** 2 / expected[keep]).sum()), int(keep.sum()) - 1


def test_tokens_are_drawn_from_the_softmax() -> None:
    ask, n = prompt(3, 6), 6000
    for heat, top_k in ((1.0, 0), (0.6, 0), (1.0, 12)):
        params = SamplingParams(1, heat, top_k)
        got = engine().generate([Request(ask, params, ("c", i)) for i in range(n)])
        counts = np.bincount([c.ids[0] for c in got], minlength=300)
        with torch.no_grad():
            logits = model("dense").logits(model("dense")(torch.tensor([ask])))[0, -1] / heat
        if top_k:
            logits[logits < logits.topk(top_k).values[-1]] = float("-inf")
        statistic, df = chi_square(counts, logits.double().softmax(-1).numpy())
        assert df > 8
        assert statistic < df + 4 * (2 * df) ** 0.5, (heat, top_k, statistic, df)
        other, df = chi_square(counts, (logits.double() * 1.3).softmax(-1).numpy())
        assert other > df + 5 * (2 * df) ** 0.5  # power: a little colder would be seen


def test_greedy_is_argmax_whatever_the_key() -> None:
    asked = [Request(prompt(i, 5), SamplingParams(12, 0.0), ("g", i)) for i in range(4)]
    for request, done in zip(asked, engine("chunked").generate(asked), strict=True):
        ids = torch.tensor([[*request.prompt_ids, *done.ids]])
        with torch.no_grad():
            best = model("chunked").logits(model("chunked")(ids[:, :-1]))[0].argmax(-1)
        assert tuple(best[len(request.prompt_ids) - 1 :].tolist()) == done.ids
    here, there = (engine("chunked", seed=s).generate(asked)[0].ids for s in (0, 9))
    assert here == there
    mixed = [asked[0], replace(asked[0], params=SamplingParams(12, 1.5))]
    cold, hot = engine("chunked").generate(mixed)
    assert cold.ids != hot.ids


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (3, 1.0), (0, 0.3), (0, 1e-9), (5, 0.5)])
def test_draws_never_leave_the_nucleus(top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 50, generator=generator) * 2
    u = torch.rand(200, generator=generator)
    u[:20], u[20:40] = 0.0, 1 - 2**-24
    params = Drawing([SamplingParams(1, 1.0, top_k, top_p)] * 200, torch.device("cpu"))
    tokens, logprobs = params(logits, u)
    for row, token, logprob in zip(logits, tokens.tolist(), logprobs.tolist(), strict=True):
        p, order = row.double().softmax(-1).sort(descending=True)
        size = int((p.cumsum(0) < top_p - 1e-6).sum()) + 1 if top_p < 1 else 50
        size = min(size, top_k or 50)
        nucleus = order[:size].tolist()
        assert token in nucleus
        share = row.double().softmax(-1)[token] / p[:size].sum()
        assert logprob == pytest.approx(float(share.log()), abs=1e-4)
    if top_k != 1 and top_p > 0.1:
        free, _ = Drawing([SamplingParams(1)] * 200, torch.device("cpu"))(logits, u)
        assert (free != tokens).any()


def test_the_last_possible_token_is_the_last() -> None:
    """The largest uniform and a sum that rounds: never a token of probability zero."""
    u = torch.full((1,), 1 - 2**-24)
    for n in itertools.chain(range(1, 60), range(990, 1010)):
        logits = torch.full((1, 2048), float("-inf"))
        logits[0, 5 : 5 + n] = torch.randn(n, generator=torch.Generator().manual_seed(n))
        params = Drawing([SamplingParams(1)], torch.device("cpu"))
        for given, inside in ((u, range(5, 5 + n)), (torch.zeros(1), range(5, 5 + n))):
            token, logprob = params(logits, given)
            assert int(token) in inside
            assert torch.isfinite(logprob).all()


def test_stop_tokens_end_a_row_and_are_its_last() -> None:
    made = Decoder(DENSE).eval()
    made.load_state_dict(model("dense").state_dict())
    stops = [TOKENIZER.special(name) for name in ("eot", "eom", "end_of_text")]
    assert made.head is not None
    with torch.no_grad():
        made.head.weight[stops] *= 3  # likely, but only now and then
    asked = [Request(prompt(i, 6), SamplingParams(40), ("s", i)) for i in range(60)]
    got = Engine(made, TOKENIZER, 0).generate(asked)
    ended = {c.finish for c in got}
    assert ended == {"stop", "length"}
    for done in got:
        assert not set(done.ids[:-1]) & set(stops)
        assert (done.ids[-1] in stops) == (done.finish == "stop")
        assert done.finish == "stop" or len(done.ids) == 40
        assert len(done.logprobs) == len(done.ids)
    assert {c.ids[-1] for c in got if c.finish == "stop"} == set(stops)
    assert worst(made, asked, got) < CLOSE


def test_the_version_and_the_count_are_reported() -> None:
    made = Engine(build(DENSE).eval(), TOKENIZER, 0)
    ask = [Request(prompt(0, 4), SamplingParams(5, 0.0), ("v",))]
    (before,) = made.generate(ask)
    made.load_weights(model("dense").state_dict(), 7)
    (after,) = made.generate(ask)
    assert (before.version, after.version) == (0, 7)
    assert after.ids == engine().generate(ask)[0].ids != before.ids
    assert made.generated_tokens == len(before.ids) + len(after.ids)
    assert made.generate([]) == []


def test_a_grammar_holds_beside_rows_that_have_none() -> None:
    """Only what it allows, under the masked distribution; the other rows as without it."""
    from puna.engine.grammar import regex_grammar

    made = engine("dense")
    free = [Request(prompt(i, 6), SamplingParams(20), ("g", i)) for i in range(6)]
    grammar = regex_grammar(TOKENIZER, "(the|llama| )+of [0-9]{3,8}")
    params = replace(free[0].params, grammar=grammar, max_tokens=60)
    bound = [replace(r, params=params) for r in free[::2]]
    got = made.generate([*bound, *free[1::2]])
    for done in got[:3]:
        text = TOKENIZER.decode(done.ids[:-1])
        assert re.fullmatch("(the|llama| )+of [0-9]{3,8}", text), text
        assert done.finish == "stop"
        assert max(done.logprobs) <= 0
    same(got[3:], engine("dense").generate(free)[1::2])
    given = [replace(r, params=replace(r.params, max_tokens=60)) for r in bound]
    gaps = [
        (recomputed(model("dense"), r, c) - torch.tensor(c.logprobs)).abs().max().item()
        for r, c in zip(given, got, strict=False)
    ]
    assert min(gaps) > 100 * CLOSE  # the plain distribution is another


def test_the_likeliest_tokens_stand_beside_what_was_drawn() -> None:
    asked = [
        Request(prompt(i, 5), SamplingParams(8, 1.0, top_logprobs=i), ("t", i)) for i in range(4)
    ]
    for i, (request, done) in enumerate(zip(asked, engine().generate(asked), strict=True)):
        ids = torch.tensor([[*request.prompt_ids, *done.ids]])
        with torch.no_grad():
            logits = model("dense").logits(model("dense")(ids[:, :-1]))[0].log_softmax(-1)
        best = logits[len(request.prompt_ids) - 1 :].topk(max(1, i))
        assert len(done.top) == (len(done.ids) if i else 0)
        for at, told in enumerate(done.top):
            assert [token for token, _ in told] == best.indices[at].tolist()
            values = torch.tensor([value for _, value in told])
            torch.testing.assert_close(values, best.values[at], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("least", [0.05, 0.5, 1.0])
def test_min_p_keeps_what_is_likely_enough(least: float) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(300, 40, generator=generator) * 2
    u = torch.rand(300, generator=generator)
    tokens, logprobs = Drawing([SamplingParams(1, min_p=least)] * 300, u.device)(logits, u)
    share = logits.double().softmax(-1)
    chosen = share.gather(1, tokens[:, None])[:, 0]
    kept = share >= least * share.amax(1, keepdim=True) - 1e-9
    assert (chosen >= least * share.amax(1) - 1e-9).all()
    expected = (chosen / (share * kept).sum(1)).log()
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-4)
    assert (kept.sum(1) > 1).any() == (least < 1)
