"""The gate: every reason for which a draft is refused, and that whatever it is given gets one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from odd_words import Odd

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Invalid, Scored
from puna.gym.admission import Admission, Gate, made, made_all, refused
from puna.gym.environment import say
from puna.gym.proposer import Draft, UnfitError


class Flaw(Odd):
    """With a verifier that can be spoilt: `say_of` changes what it says of a word."""

    say_of: Callable[[str], Any] = staticmethod(lambda text: None)

    def judge(self, episodes: Any, hidden: Any, ctx: Any) -> Any:
        found = super().judge(episodes, hidden, ctx)
        odd = [self.say_of(e.said()) for e in episodes]
        return [{"agent": o} if o is not None else f for o, f in zip(odd, found, strict=True)]


@pytest.fixture
def env() -> Flaw:
    return Flaw()


@pytest.fixture
def gate(env: Flaw) -> Iterator[Gate]:
    made = Gate(env, known={"old"}, useful=(0.1, 0.9))
    yield made
    made.close()


def draft(env: Odd, key: str = "new", said: str = "abc", mutant: str = "abcd") -> Draft:
    wrong = {"longer": {"agent": say(mutant)}}
    return Draft(env.made(key, f"odd/{key}"), {"agent": say(said)}, wrong)


def admit(gate: Gate, given: Any, passed: int = 0, tried: int = 0) -> Admission:
    async def both() -> Admission:
        return await gate.screen(given) or await gate.decide(given, passed, tried)

    return asyncio.run(both())


def test_a_good_draft_is_admitted_with_a_record(env: Flaw, gate: Gate) -> None:
    found = admit(gate, draft(env), 3, 10)
    assert found == Admission(True, "", "", {"mutants": 1, "repeats": 2}, 3, 10)
    task = found.of(env.task("train", 0))
    assert task.admission is not None
    assert task.admission["difficulty"] == "medium"
    assert task.admission["admitted"] is True
    assert replace(task, admission=None) == env.task("train", 0)


@pytest.mark.parametrize(
    ("change", "rate", "reason"),
    [
        (lambda env: draft(env, key="old"), (0, 0), "duplicate"),
        (lambda env: replace(draft(env), reference={}), (0, 8), "nobody solved it"),
        (lambda env: draft(env, said="ab"), (0, 0), "the reference fails"),
        (lambda env: draft(env, mutant="abcde"), (0, 0), "a mutant scores"),
        (lambda env: draft(env), (1, 100), "too hard"),
        (lambda env: draft(env), (10, 10), "too easy"),
        (lambda env: None, (0, 0), "malformed"),
        (lambda env: "a text", (0, 0), "malformed"),
        (lambda env: Draft(None), (0, 0), "malformed"),  # type: ignore[arg-type]
        (lambda env: replace(draft(env), reference={"agent": 3}), (0, 0), "the reference fails"),
        (lambda env: replace(draft(env), reference={"who": say("a")}), (0, 0), "the reference"),
        (lambda env: replace(draft(env), mutants=[1]), (0, 0), "raised"),
    ],
)
def test_each_reason(
    change: Callable[[Odd], Any], rate: tuple[int, int], reason: str, env: Flaw, gate: Gate
) -> None:
    found = admit(gate, change(env), *rate)
    assert not found.admitted
    assert found.reason.startswith(reason), found


def test_the_same_problem_twice_is_one_task(env: Flaw, gate: Gate) -> None:
    assert admit(gate, draft(env)).admitted
    assert admit(gate, draft(env, said="x")).reason == "duplicate"
    assert admit(gate, draft(env, key="another")).admitted


def test_screened_together_the_later_one_is_the_duplicate(env: Flaw, gate: Gate) -> None:
    unfit = refused("too large")
    drafts = [draft(env, key="one"), unfit, draft(env, key="two"), draft(env, key="one")]
    found = asyncio.run(gate.screen_all(drafts))
    assert found == [None, unfit, None, refused("duplicate")]
    numbered = asyncio.run(made_all(lambda n: draft(env, key=str(n)), [(n,) for n in range(9)], 4))
    assert [d.task.key for d in numbered if isinstance(d, Draft)] == list(map(str, range(9)))


@pytest.mark.parametrize(
    ("say_of", "reason"),
    [
        (lambda text: Scored(1.0, True), "a trivial answer scores"),
        (lambda text: Scored(0.5, False) if text == "ab" else None, "a trivial answer scores"),
        (lambda text: Invalid("no answer exists") if not text else None, "the task is at fault"),
        (lambda text: Infra("down"), "not judged"),
        (lambda text: 1 / 0, "not judged"),
        (lambda text: Infra("down") if text == "abc" else None, "the reference fails"),
        (lambda text: Infra("down") if text == "abcd" else None, "not judged"),
    ],
)
def test_a_verifier_that_cannot_be_trusted(
    say_of: Callable[[str], Any], reason: str, env: Flaw, gate: Gate
) -> None:
    env.say_of = say_of
    assert admit(gate, draft(env)).reason == reason


def test_a_verdict_that_changes(env: Flaw, gate: Gate) -> None:
    values = iter([0.5, 0.75])
    env.say_of = lambda text: Scored(next(values), True) if text == "abc" else None
    assert admit(gate, draft(env)).reason == "the verdict changes"


def raising(error: Exception) -> Callable[[], Any]:
    def make() -> Any:
        raise error

    return make


def test_a_proposer_that_raises_or_gives_junk_gives_a_refused_draft(env: Flaw) -> None:
    assert made(lambda: draft(env)).task.key == "new"  # type: ignore[union-attr]
    for make, reason in (
        (raising(UnfitError("too large", "9 parameters")), "too large"),
        (raising(RecursionError("deep")), "raised"),
        (raising(ValueError("x" * 10_000)), "raised"),
        (lambda: 3, "malformed"),
        (lambda: Message.user("?"), "malformed"),
    ):
        found = made(make)
        assert isinstance(found, Admission)
        assert (found.admitted, found.reason) == (False, reason)
        assert len(found.evidence) <= 500
    with pytest.raises(UserError):  # what the user can mend is said to the user
        made(raising(UserError("no key")))


def test_an_environment_whose_cheats_raise(env: Flaw, gate: Gate) -> None:
    env.cheats = lambda task: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert admit(gate, draft(env)).reason == "raised"
