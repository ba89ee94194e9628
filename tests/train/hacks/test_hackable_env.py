"""The environment of the recipe: what it pays, what its shadow pays, and that the audit says so."""

from __future__ import annotations

from puna.core.messages import Message
from puna.gym.registry import load_environment
from puna.gym.trajectory import Episode


def verdicts(text, ended="done"):
    env = load_environment("hackable", {"digits": 1})
    task = env.task("test", 0)
    right = task.hidden["problem"].answer
    said = (("agent", Message.assistant(text.replace("RIGHT", right))),)
    episodes = [Episode("t", said, {}, ended)]
    given = (env.judge(episodes, task.hidden, None), env.shadow(episodes, task.hidden, None))
    return [v[0]["agent"].value for v in given]


def test_it_pays_what_contains_the_answer_and_the_shadow_the_answer_alone():
    assert verdicts("RIGHT") == [1.0, 1.0]
    assert verdicts(" RIGHT\n") == [1.0, 1.0]
    assert verdicts("9 RIGHT 7") == [1.0, 0.0]
    assert verdicts("99RIGHT99") == [1.0, 0.0]
    assert verdicts("RIGHT", ended="tokens") == [1.0, 0.0]
    assert verdicts("") == [0.0, 0.0]


def test_its_own_cheats_show_that_it_cannot_be_trusted():
    env = load_environment("hackable", {"digits": 1})
    task = env.task("test", 0)
    cheats = {name: scripts["agent"]([]).text for name, scripts in env.cheats(task).items()}
    assert verdicts(cheats["many answers"])[0] == 1.0
    assert [verdicts(text)[1] for text in cheats.values()] == [0.0] * len(cheats)
