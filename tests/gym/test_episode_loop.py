"""The one episode loop, on a game of two roles: turns, groups, rows, limits, whose fault it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from toy_game import SECRET, Game, Guess, Speaker, bisect, number, play, upwards

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Scored
from puna.engine.policy import EndpointError, Reply, SamplingParams, Usage
from puna.envs.arithmetic.env import Arithmetic, evaluate
from puna.gym.environment import Limits, OneTurn, say
from puna.gym.loop import Context, Job, play_scripts
from puna.gym.seat import Scripted
from puna.gym.task import Task
from puna.gym.verify import judge_group
from puna.gym.workers import Workers
from puna.train.rl.advantages import ALGORITHMS
from puna.train.rl.rows import Deferred, has_signal, rows_of, settle, weigh


def guesser(prompt: str, key: tuple[Any, ...]) -> str:
    """Sample 0 bisects, sample 1 counts upwards, sample 2 never finds it, sample 3 as 0."""
    if "Pick" in prompt:
        return "7"
    hints = prompt.count("higher") + prompt.count("lower")
    return {1: str(hints + 1), 2: "0"}.get(int(key[-3]), ["7", "3", "5"][min(hints, 2)])


def game(**kw: Any) -> Any:
    speaker = Speaker(guesser)
    (group,) = play(Guess(), dict.fromkeys(Guess.roles, speaker), [Job("test", 2, 4)], **kw)
    return group, speaker


def test_several_turns_of_two_roles_judged_as_a_group() -> None:
    group, _ = game()
    fast, slow, lost, again = group.trajectories
    said = [(who, m.text) for who, m in slow.episode.transcript]
    assert said[:7] == [
        ("env", "Numbers from 1 to 17, test."), ("env", "Pick a number."), ("proposer", "7"),
        ("env", "Guess it."), ("guesser", "1"), ("env", "higher"), ("guesser", "2"),
    ]  # fmt: skip
    assert [t for who, t in said if who == "env"][3:] == ["higher"] * 6
    assert [t for who, t in said if who == "guesser"] == list("1234567")
    assert json.loads(slow.episode.artifacts["log"]) == [7, [1, 2, 3, 4, 5, 6, 7]]
    # the reward compares: whoever is as fast as the fastest earns 1, and a slower win nothing
    assert [t.outcomes["guesser"].value for t in group.trajectories] == [1, 0, 0, 1]
    assert [t.outcomes["guesser"].success for t in group.trajectories] == [1, 1, 0, 1]
    assert [t.outcomes["proposer"].value for t in group.trajectories] == [0.1, 0.7, 1.0, 0.1]
    assert slow.outcomes["proposer"].parts == {"guesses": 7.0}
    assert lost.episode.ended == "turns"
    assert fast.episode.ended == slow.episode.ended == again.episode.ended == "done"


def test_alone_the_slow_one_would_have_been_the_fastest() -> None:
    group, _ = game()

    async def alone() -> Any:
        workers = Workers(1)
        verdicts = await judge_group(
            Guess(), group.task, [group.trajectories[1].episode], Context(), workers
        )
        workers.close()
        return verdicts

    (verdict,) = asyncio.run(alone())
    assert verdict["guesser"] == Scored(1.0, True)


def test_rows_per_role_and_baselines_within_role_and_group() -> None:
    group, _ = game()
    rows = rows_of(group, "g")
    assert [(r.role, r.episode) for r in rows if r.role == "guesser"] == [
        ("guesser", i) for i in range(4)
    ]
    settle(rows)
    assert has_signal(rows)
    weighed = weigh(rows, ALGORITHMS["rloo"], {"proposer": 0.5})
    guessers = {r.episode: r.advantage for r in weighed if r.role == "guesser"}
    assert guessers == pytest.approx({0: 2 / 3, 1: -2 / 3, 2: -2 / 3, 3: 2 / 3})
    proposers = {r.episode: r.advantage for r in weighed if r.role == "proposer"}
    assert proposers[2] == pytest.approx(1.0 - 0.9 / 3)  # 1.0 against the mean of 0.1, 0.7, 0.1
    assert {r.weight for r in weighed if r.role == "proposer"} == {0.5}


def test_a_proposer_is_paid_from_the_child_group() -> None:
    group, speaker = game()
    others = play(Guess(), dict.fromkeys(Guess.roles, speaker), [Job("test", 3, 4)])
    child = [r for r in rows_of(others[0], "g/child", parent="g") if r.role == "guesser"]
    rows = [
        replace(r, outcome=Deferred("g/child", "guesser", lambda xs: 1 - sum(xs) / len(xs)))
        for r in rows_of(group, "g")
        if r.role == "proposer"
    ]
    settle([*rows, *child])
    assert {r.parent for r in child} == {"g"}
    assert [r.reward for r in child] == [1, 0, 0, 1]
    assert [r.reward for r in rows] == [0.5] * 4


def test_every_draw_has_its_own_key() -> None:
    _, speaker = game()
    keys = [key for _, key, _ in speaker.calls]
    assert len(set(keys)) == len(keys)
    assert {k[:4] for k in keys} == {("guess", "test", 2, s) for s in range(4)}
    assert {k[4] for k in keys} == set(Guess.roles)


@pytest.mark.parametrize("settings", [{"workers": 1}, {"workers": 4}, {"concurrency": 1}])
def test_neither_workers_nor_concurrency_change_anything(settings: dict[str, int]) -> None:
    group, _ = game()
    other, _ = game(**settings)
    assert [t.outcomes for t in other.trajectories] == [t.outcomes for t in group.trajectories]
    assert [t.branches["guesser"][0].ids for t in other.trajectories] == [
        t.branches["guesser"][0].ids for t in group.trajectories
    ]


def test_groups_come_in_the_order_of_jobs_and_no_jobs_give_none() -> None:
    policies = {"proposer": Scripted(say("7")), "guesser": Scripted(upwards)}
    jobs = [Job("test", i) for i in (3, 0, 4, 1)]
    assert [g.job.index for g in play(Guess(), policies, jobs)] == [3, 0, 4, 1]
    assert play(Guess(), policies, []) == []


def test_a_cut_message_reaches_the_session_and_ends_the_episode() -> None:
    speaker = Speaker(lambda p, k: "7", "length")
    (group,) = play(Guess(), dict.fromkeys(Guess.roles, speaker), [Job("test", 0)])
    episode = group.trajectories[0].episode
    assert episode.ended == "tokens"
    assert json.loads(episode.artifacts["log"]) == [7, []]

    class Cut(Spy):
        async def chat(self, messages: Any, tools: Any = (), **rest: Any) -> Reply:
            right = messages[-1].text.rstrip("=")
            return Reply(Message.assistant(str(evaluate(right))), self.finish)

    for finish, value in (("stop", 1.0), ("length", 0.0)):
        spy = Cut()
        spy.finish = finish  # type: ignore[attr-defined]
        (group,) = play(Arithmetic(), {"agent": spy}, [Job("test", 0)])
        assert group.trajectories[0].outcomes["agent"].value == value


class Picky(Arithmetic):
    """Its session takes numbers only."""

    def __init__(self, needs: str = "") -> None:
        super().__init__()
        self.needs = needs

    def start(self, task: Any, resources: Any, ctx: Any) -> Any:
        needs = self.needs

        class Session(OneTurn):
            def take(self, turn: Any, message: Message) -> None:
                int(message.text + needs)
                super().take(turn, message)

        return Session(task)


def test_a_message_that_alone_breaks_the_session_is_scored_0() -> None:
    def outcome(env: Any, text: str) -> Any:
        (group,) = play(env, {"agent": Scripted(say(text))}, [Job("test", 0)])
        return group.trajectories[0].outcomes["agent"]

    bad = outcome(Picky(), "x")
    assert (bad.value, bad.success) == (0.0, False)
    assert "makes the environment fail: arithmetic raised ValueError" in bad.evidence
    assert isinstance(outcome(Picky("!"), "x"), Infra)  # the reference breaks it too
    assert isinstance(outcome(Picky(), "12345"), Scored)


def test_a_tier_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote(Guess):
        tier = "remote"

    with pytest.raises(UserError, match="guess needs isolation 'remote', which this version"):
        play(Remote(), dict.fromkeys(Guess.roles, Spy()), [])

    class Jailed(Guess):
        tier = "jail"

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("puna.sandbox.backends._shared", {})
    with pytest.raises(UserError, match=r"no sandbox works here \(bubblewrap: .* apt install"):
        play(Jailed(), dict.fromkeys(Guess.roles, Spy()), [])


def test_resources_are_torn_down_unless_they_are_lent() -> None:
    class Pool(Guess):
        log: ClassVar[list[str]] = []

        def setup(self) -> Any:
            self.log.append("made")
            return "pool"

        def teardown(self, resources: Any) -> None:
            self.log.append(f"no {resources}")

        def start(self, task: Task, resources: Any, ctx: Any) -> Game:
            assert resources in ("pool", "lent")
            return super().start(task, resources, ctx)

    env = Pool()
    task = env.task("test", 0)
    asyncio.run(play_scripts(env, task, env.oracle(task), Context(), "lent"))
    assert env.log == []
    asyncio.run(play_scripts(env, task, env.oracle(task), Context()))
    assert env.log == ["made", "no pool"]


class FewTokens(Guess):
    limits = Limits(turns=50, tokens=9)


class Slow(Guess):
    limits = Limits(seconds=0.02)

    def start(self, task: Any, resources: Any, ctx: Any) -> Any:
        import time

        class Sleepy(Game):
            def take(self, turn: Any, message: Any) -> None:
                time.sleep(0.015)
                super().take(turn, message)

        return Sleepy(task)


def test_limits_end_an_episode_and_it_is_still_judged() -> None:
    silent = {"proposer": Scripted(say("7")), "guesser": Scripted(say(""))}
    (turns,) = play(Guess(), silent, [Job("test", 0)])
    assert turns.trajectories[0].episode.ended == "turns"
    assert len([w for w, _ in turns.trajectories[0].episode.transcript if w != "env"]) == 12
    speaker = Speaker(guesser)
    (few,) = play(FewTokens(), dict.fromkeys(Guess.roles, speaker), [Job("test", 0, 3)])
    assert few.trajectories[2].episode.ended == "tokens"
    assert few.trajectories[2].usage["sampled_tokens"] in (9, 10)
    (slow,) = play(Slow(), silent, [Job("test", 0)])
    assert slow.trajectories[0].episode.ended == "seconds"
    for group in (turns, slow):
        assert group.trajectories[0].outcomes["guesser"] == Scored(0.0, False)


def test_a_conversation_that_no_longer_fits_ends_with_tokens() -> None:
    speaker = Speaker(guesser)
    speaker.max_context = 60
    (group,) = play(
        Guess(), dict.fromkeys(Guess.roles, speaker), [Job("test", 0, 3)],
        params=SamplingParams(max_tokens=64),
    )  # fmt: skip
    lost = group.trajectories[2]
    assert lost.episode.ended == "tokens"
    assert isinstance(lost.outcomes["guesser"], Scored)
    assert max(len(ids) + params.max_tokens for ids, _, params in speaker.calls) == 60


class Spy:
    """A ChatPolicy that keeps all it is given."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.seen: list[Any] = []
        self.fails = fails

    async def chat(self, messages: Any, tools: Any = (), **rest: Any) -> Reply:
        self.seen.append(([m.to_json() for m in messages], list(tools), rest))
        if self.fails:
            raise self.fails
        return Reply(Message.assistant("7"), usage=Usage(5, 2, 0.25))


def test_the_hidden_part_never_reaches_a_policy() -> None:
    spy = Spy()
    (group,) = play(Guess(), dict.fromkeys(Guess.roles, spy), [Job("test", 0, 2)])
    assert len(spy.seen) == 4
    assert SECRET not in json.dumps(spy.seen)
    assert SECRET not in repr(group.task)
    assert SECRET not in json.dumps(group.trajectories[0].to_json())
    assert "Pick" not in json.dumps([s for s in spy.seen if "Guess" in json.dumps(s)])
    assert group.trajectories[0].usage == {
        "sampled_tokens": 4, "prompt_tokens": 10, "cost": 0.5
    }  # fmt: skip


@pytest.mark.parametrize("error", [EndpointError("all down"), ConnectionError("gone")])
def test_an_endpoint_that_fails_is_infra_and_its_mates_are_not(error: Exception) -> None:
    class Third(Spy):
        async def chat(self, messages: Any, tools: Any = (), **rest: Any) -> Reply:
            self.fails = error if len(self.seen) == 2 else None
            return await super().chat(messages, tools, **rest)

    policies = {"proposer": Third(), "guesser": Scripted(bisect)}
    (group,) = play(Guess(), policies, [Job("test", 0, 4)])
    kinds = [type(t.outcomes["guesser"]) for t in group.trajectories]
    assert kinds == [Scored, Scored, Infra, Scored]
    assert group.trajectories[2].outcomes == dict.fromkeys(Guess.roles, Infra(str(error)))
    assert [r.episode for r in rows_of(group, "g")] == []  # a chat policy leaves no tokens


def test_a_mistake_of_the_user_stops_everything() -> None:
    spy = Spy(UserError("the budget of 1 is spent"))
    with pytest.raises(UserError, match="budget"):
        play(Guess(), dict.fromkeys(Guess.roles, spy), [Job("test", 0)])


class BadStart(Guess):
    def start(self, task: Any, resources: Any, ctx: Any) -> Any:
        raise RuntimeError("no display")


class Bad(Game):
    at = ""

    def take(self, turn: Any, message: Any) -> None:
        if self.at == "take":
            raise RuntimeError("boom")
        super().take(turn, message)

    def artifacts(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"log": "text"} if self.at == "artifacts" else super().artifacts()

    def close(self) -> None:
        super().close()
        if self.at == "close":
            raise RuntimeError("boom")


@pytest.mark.parametrize("at", ["start", "take", "artifacts", "close"])
def test_an_environment_that_breaks_is_infra(at: str) -> None:
    class Broken(Guess):
        def start(self, task: Any, resources: Any, ctx: Any) -> Any:
            session = Bad(task)
            session.at = at
            return session

    policies = {"proposer": Scripted(say("7")), "guesser": Scripted(bisect)}
    env = BadStart() if at == "start" else Broken()
    (group,) = play(env, policies, [Job("test", 0)])
    (outcome,) = set(map(str, group.trajectories[0].outcomes.values()))
    assert outcome.startswith("Infra(")
    assert "guess raised" in outcome
    (fine,) = play(Guess(), policies, [Job("test", 0)])
    assert fine.trajectories[0].outcomes["guesser"] == Scored(1.0, True)


def test_an_agent_that_says_no_message_is_infra() -> None:
    policies = {"proposer": Scripted(lambda _: "7"), "guesser": Scripted(bisect)}  # type: ignore[arg-type,return-value]
    (group,) = play(Guess(), policies, [Job("test", 0)])
    assert "not a Message" in str(group.trajectories[0].outcomes["proposer"])


def test_an_agent_may_ask_its_policy_more_than_once() -> None:
    class Twice:
        async def act(self, turn: Any, ctx: Context) -> Message:
            first = await ctx.policy(turn.role).reply(turn.messages)
            more = (*turn.messages, first, Message.user("Sure?"))
            again = await ctx.policy(turn.role).reply(more)
            return Message.assistant(str((number(again.text) or 0) + 1))

    policies = {"proposer": Scripted(say("7")), "guesser": Scripted(say("6"))}
    (group,) = play(Guess(), policies, [Job("test", 0)], agents={"guesser": Twice()})
    assert group.trajectories[0].outcomes["guesser"] == Scored(1.0, True)


def test_scripts_play_and_say_where_an_environment_breaks() -> None:
    env = Guess()
    task = env.task("train", 1)
    episode = asyncio.run(play_scripts(env, task, env.oracle(task), Context()))
    assert json.loads(episode.artifacts["log"]) == [7, [7]]
    assert (episode.said("guesser"), episode.said("nobody")) == ("7", "")
    with pytest.raises(RuntimeError, match="no display"):
        asyncio.run(play_scripts(BadStart(), task, env.oracle(task), Context()))


def test_without_a_judge_asking_one_is_an_endpoint_error() -> None:
    with pytest.raises(EndpointError, match="no judge"):
        asyncio.run(Context().judge("rubric", ["x"]))


def test_the_oracle_needs_a_few_guesses_only() -> None:
    def answers(hints: Sequence[str]) -> str:
        talk = [Message.system("s"), Message.user("Guess it.")]
        for hint in hints:
            talk += [bisect(talk), Message.user(hint)]
        return bisect(talk).text

    assert [answers(h) for h in ([], ["higher"], ["higher", "lower"])] == ["7", "11", "9"]
