"""scenes: what is drawn is what is asked; test holds what train never shows; chance as stated."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from puna.core.messages import Image
from puna.envs.scenes.drawing import COLOURS, PLACES, SHAPES, Thing, draw, png
from puna.envs.scenes.env import KINDS, TEST_ONLY, Scene, Scenes, ScenesConfig
from puna.gym.task import Task


@pytest.fixture(scope="module")
def env() -> Scenes:
    return Scenes()


def scene_of(task: Task) -> Scene:
    found: Scene = task.hidden["problem"].hidden["scene"]
    return found


def test_a_thing_is_drawn_at_its_place_in_its_colour_and_shape() -> None:
    for place in range(len(PLACES)):
        for (colour, shape), jitter in zip(KINDS, range(100), strict=False):
            picture = draw([Thing(colour, shape, place)], jitter)
            inked = (picture == COLOURS[colour]).all(-1)
            assert int(inked.sum()) == int(SHAPES[shape].sum())
            rows, columns = np.nonzero(inked)
            assert 3 * (int(rows.mean()) // 11) + int(columns.mean()) // 11 == place
            cut = inked[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            full = SHAPES[shape]
            across, down = full.any(0), full.any(1)
            assert np.array_equal(cut, full[down][:, across])


def test_questions_and_answers_by_hand() -> None:
    things = (Thing("red", "disc", 0), Thing("blue", "ring", 5))
    assert Scene(things, 0, True, 0).question == "Where is the red disc?"
    assert Scene(things, 0, True, 0).answer == "top left"
    assert Scene(things, 1, False, 0).question == "What is middle right?"
    assert Scene(things, 1, False, 0).answer == "blue ring"


def test_combinations_of_test_are_never_in_train(env: Scenes) -> None:
    assert len(TEST_ONLY) == 54
    for i in range(400):
        assert not {str(t) for t in scene_of(env.task("train", i)).things} & TEST_ONLY
        asked = scene_of(env.task("test", i))
        assert str(asked.things[asked.asked]) in TEST_ONLY
    # Each colour, shape and place has its share, and each pair of a colour and a shape is in train.
    for word in (*COLOURS, *SHAPES, *PLACES):
        assert 6 <= sum(word in t for t in TEST_ONLY) <= 12, word
    in_train = {
        (t.colour, t.shape) for i in range(400) for t in scene_of(env.task("train", i)).things
    }
    assert in_train == set(KINDS)


def test_the_stated_chance_is_the_best_that_questions_allow(env: Scenes) -> None:
    answers: dict[str, Counter[str]] = {"what": Counter(), "where": Counter()}
    for i in range(env.count("test")):
        task = env.task("test", i)
        answers[task.tags["question"]][task.hidden["problem"].answer] += 1
    best = sum(count.most_common(1)[0][1] for count in answers.values()) / env.count("test")
    assert env.chance == pytest.approx(best, abs=5e-4)
    assert best < 0.12


def test_a_blind_task_is_the_same_but_for_its_picture(env: Scenes) -> None:
    blind = Scenes(ScenesConfig(blind=True))
    seen, unseen = env.task("test", 3), blind.task("test", 3)
    assert seen.key == unseen.key
    assert seen.messages[0].text == unseen.messages[0].text
    pictures = [t.messages[0].parts[0] for t in (seen, unseen)]
    assert all(isinstance(p, Image) for p in pictures)
    assert pictures[0] != pictures[1]
    empty = draw((), 5)
    assert len(np.unique(empty)) == 1


def test_png_is_read_back_as_drawn() -> None:
    pytest.importorskip("PIL")
    from puna.text.images import inline, pixels

    picture = draw([Thing("yellow", "triangle", 4), Thing("white", "cross", 8)], 3)
    assert np.array_equal(pixels(inline(png(picture), "image/png")).transpose(1, 2, 0), picture)


@pytest.mark.parametrize("things", [0, 7])
def test_settings_that_cannot_be(things: int) -> None:
    with pytest.raises(ValueError, match=f"things is {things}, must be 1 to 6"):
        ScenesConfig(things)
