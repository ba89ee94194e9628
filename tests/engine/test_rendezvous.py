"""The rendezvous: who arrives when decides nothing, and who never arrives is named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from puna.core.rng import stream
from puna.engine.local import Engine, Request
from puna.engine.policy import Completion, SamplingParams
from puna.engine.rendezvous import LocalSampler, Rendezvous
from puna.models import ModelConfig, build
from puna.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["the llama of the puna"] * 3, 300)
CONFIG = ModelConfig(
    family="llama3", vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=8, intermediate_size=64, max_positions=256, initializer_range=0.15,
)  # fmt: skip
torch.set_num_threads(1)
MODEL = build(CONFIG).eval()
PARAMS = SamplingParams(6)


class Counting(Engine):
    """The engine, with the sizes of the batches it was given."""

    def __init__(self) -> None:
        super().__init__(MODEL, TOKENIZER, 0)
        self.sizes: list[int] = []

    def generate(self, requests: Any) -> list[Completion]:
        self.sizes.append(len(requests))
        return super().generate(requests)


async def episode(
    meet: Rendezvous, engine: Engine, name: str, turns: int, delays: Any = None
) -> list[Completion]:
    """`turns` samples, each after the other, with pauses before."""
    sampler, out = LocalSampler(engine, meet), []
    ids = [*TOKENIZER.encode(name)]
    async with meet.episode(name):
        for turn in range(turns):
            if delays is not None:
                await asyncio.sleep(float(delays.random()) * 0.02)
            done = await sampler.sample(ids, PARAMS, (name, "agent", turn))
            ids += done.ids
            out.append(done)
    return out


def played(order: list[int], delays: Any = None) -> tuple[dict[int, Any], list[int]]:
    async def all_of() -> dict[int, Any]:
        meet = Rendezvous()
        meet.expect([f"e{i}" for i in order])
        tasks = {}
        for i in order:
            if delays is not None:
                await asyncio.sleep(float(delays.random()) * 0.01)
            tasks[i] = asyncio.ensure_future(episode(meet, engine, f"e{i}", 1 + i % 3, delays))
        return {i: await task for i, task in tasks.items()}

    engine = Counting()
    return asyncio.run(all_of()), engine.sizes


def test_any_order_of_arrival_gives_the_same_to_the_last_bit() -> None:
    expected, sizes = played(list(range(9)))
    assert sizes == [9, 6, 3]  # everybody together, as long as they are in the game
    for seed in range(3):
        order = stream(seed, "order").permutation(9).tolist()
        got, again = played(order, stream(seed, "delay"))
        assert again == sizes
        assert got == expected


def test_without_the_announcement_the_first_would_go_alone() -> None:
    async def all_of() -> list[int]:
        meet, engine = Rendezvous(), Counting()

        async def late(i: int) -> None:
            while not engine.sizes:
                await asyncio.sleep(0.001)
            await episode(meet, engine, f"e{i}", 1)

        await asyncio.gather(episode(meet, engine, "e0", 1), late(1), late(2))
        return engine.sizes

    assert asyncio.run(all_of())[0] == 1


def test_a_missed_deadline_names_the_episode_that_never_came() -> None:
    async def all_of() -> tuple[Any, Any]:
        meet, engine = Rendezvous(deadline_s=0.1), Counting()
        meet.expect(["e0", "e1", "eval/arithmetic/7"])
        pair = [episode(meet, engine, f"e{i}", 1) for i in range(2)]
        failed = await asyncio.gather(*pair, return_exceptions=True)
        meet.forget(["eval/arithmetic/7"])
        meet.deadline_s = 30
        return failed, (await episode(meet, engine, "e2", 1), engine.sizes)

    failed, (fine, sizes) = asyncio.run(all_of())
    assert all(isinstance(e, TimeoutError) for e in failed)
    assert "1 episodes, first ['eval/arithmetic/7']" in str(failed[0])
    assert len(fine) == 1
    assert sizes == [1]  # those who gave up are not decoded with the next one


def test_an_episode_that_fails_does_not_hold_up_the_rest() -> None:
    async def all_of() -> Any:
        meet, engine = Rendezvous(deadline_s=30), Counting()

        async def fails() -> None:
            async with meet.episode("bad"):
                await asyncio.sleep(0.02)
                raise RuntimeError("boom")

        meet.expect(["bad", "e1"])
        return await asyncio.gather(fails(), episode(meet, engine, "e1", 2), return_exceptions=True)

    bad, good = asyncio.run(all_of())
    assert str(bad) == "boom"
    assert len(good) == 2


def test_decoding_slower_than_the_deadline_is_waited_for() -> None:
    class Slow(Counting):
        def generate(self, requests: Any) -> list[Completion]:
            import time

            time.sleep(0.25)
            return super().generate(requests)

    for _ in range(6):  # the fifth deadline and the end of decoding fall on one moment
        done = asyncio.run(episode(Rendezvous(deadline_s=0.05), Slow(), "e", 1))
        assert len(done) == 1


def test_done_in_the_moment_of_the_deadline_is_done() -> None:
    """Both happen before the waiting side is asked again: the event loop is held meanwhile."""
    import time

    async def waits() -> Completion:
        meet = Rendezvous(deadline_s=0.02)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(meet._wait(future))
        await asyncio.sleep(0)
        answer = Completion((1,), (0.0,), 0, "stop", None)
        asyncio.get_running_loop().call_later(0.02, future.set_result, answer)
        time.sleep(0.1)  # the deadline and the result are both due
        return await waiting

    assert asyncio.run(waits()).ids == (1,)


def test_an_engine_that_fails_tells_everybody_and_goes_on() -> None:
    class Fails(Counting):
        def generate(self, requests: Any) -> list[Completion]:
            if not self.sizes:
                self.sizes.append(0)
                raise RuntimeError("out of memory")
            return super().generate(requests)

    async def all_of() -> Any:
        meet, engine = Rendezvous(deadline_s=60), Fails()
        meet.expect(["e0", "e1"])
        both = [episode(meet, engine, f"e{i}", 1) for i in range(2)]
        return await asyncio.gather(*both, return_exceptions=True), await episode(
            meet, engine, "e2", 1
        )

    failed, fine = asyncio.run(all_of())
    assert [str(e) for e in failed] == ["out of memory"] * 2
    assert len(fine) == 1


def test_after_an_interrupted_loop_the_same_rendezvous_works_again() -> None:
    """Killed between two turns and in the midst of decoding: nothing is left over."""

    class Slow(Counting):
        def generate(self, requests: Any) -> list[Completion]:
            import time

            time.sleep(0.05)
            return super().generate(requests)

    meet, engine = Rendezvous(deadline_s=60), Slow()

    async def interrupted(after: float) -> None:
        meet.expect(["a", "b", "never"] if after > 0.05 else ["a", "b"])
        for name in "ab":
            asyncio.ensure_future(episode(meet, engine, name, 50))  # noqa: RUF006
        await asyncio.sleep(after)
        meet.forget(["never"])

    for after in (0.0, 0.02, 0.1):
        asyncio.run(interrupted(after))
        engine.sizes.clear()
        (got,) = asyncio.run(episode(meet, engine, "e1", 1))
        assert engine.sizes[-1] == 1
        expected = Engine(MODEL, TOKENIZER, 0).generate(
            [Request(tuple(TOKENIZER.encode("e1")), PARAMS, ("e1", "agent", 0))]
        )
        assert [got] == expected


def test_two_engines_meet_in_one_round() -> None:
    async def all_of() -> Any:
        meet, one, two = Rendezvous(), Counting(), Counting()
        meet.expect(["e0", "e1"])
        got = await asyncio.gather(episode(meet, one, "e0", 2), episode(meet, two, "e1", 2))
        return got, one.sizes, two.sizes

    got, one, two = asyncio.run(all_of())
    assert (one, two) == ([1, 1], [1, 1])
    assert [len(g) for g in got] == [2, 2]


@pytest.mark.parametrize("version", [0, 3])
def test_the_version_reaches_the_completion(version: int) -> None:
    engine = Counting()
    engine.version = version
    (done,) = asyncio.run(episode(Rendezvous(), engine, "e", 1))
    assert done.version == version
