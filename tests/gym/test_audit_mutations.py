"""Mutations of answers, codes and forgeries, worked by hand."""

from __future__ import annotations

import json

from puna.gym.audit.codes import codes
from puna.gym.audit.forgeries import as_shown
from puna.gym.audit.mutations import (
    common,
    disguised,
    fewer,
    listed,
    more,
    nearly,
    odd_json,
    plain,
    shape,
    spellings,
)


def test_a_list_is_taken_apart_at_its_own_mark() -> None:
    found = listed("a -> b -> c")
    assert found is not None
    assert (found.mark, found.items) == (" -> ", ("a", "b", "c"))
    assert listed("3 -4 5").items == ("3", "-4", "5")  # type: ignore[union-attr]
    assert listed("one two") is None
    assert listed("1, 2, 3").strict  # type: ignore[union-attr]
    assert not listed("he saw it").strict  # type: ignore[union-attr]


def test_fewer_items_keep_their_form_and_sentences_have_a_control() -> None:
    texts = {name: each.text for name, each in fewer("1, 2, 3, 4", "7, 2, 9, 8").items()}
    assert texts == {
        "the first alone": "1",
        "the last alone": "4",
        "one in the middle": "3",
        "the first and the last": "1, 4",
        "the first of them": "1, 2",
    }
    assert {each.control for each in fewer("1, 2, 3, 4", "").values()} == {""}
    assert fewer("he saw it", "we ate him")["the last alone"].control == "we ate it"
    assert fewer('{"a": 1, "b": 2, "c": 3}', "")["the first alone"].text == '{"a": 1}'
    assert fewer("7", "8") == {}


def test_more_items_come_in_the_form_of_the_answer() -> None:
    wrong = ["[2]", "[3]", "[4]", "[5]", "[6]", "[7]"]
    assert json.loads(more("[1]", wrong, "")["with others' items"]) == [2, 3, 4, 1, 5, 6, 7]
    prompt = "Which of 11, 12, 13, 14, 15, 16 and 107?"
    spaced = more("13", [], prompt)["all of its kind in the prompt, with spaces"]
    assert spaced == "11 12 14 13 15 16 107"


def test_a_form_keeps_what_all_answers_share() -> None:
    answers = [f"total: {n} kg in box {n + 1}" for n in range(10, 20)]
    shared = common(answers)
    assert shared == {"total", "kg", "in", "box"}
    forms = shape(answers[0], shared)
    assert forms["0"] == "total: 0 kg in box 0"
    assert forms["nan"] == "total: nan kg in box nan"
    assert shape("42", shared) == {}
    assert json.loads(odd_json('{"a": [1, {"b": 2}]}')["zeros"]) == {"a": [0, {"b": 0}]}


def test_disguises_read_as_the_text_itself() -> None:
    ways = disguised("red tree")
    assert ways["accents"] == "réd tréé"
    assert ways["line breaks"] == "red\ntree"
    for name in ("accents", "marks below", "wide letters", "capitals", "no spaces"):
        assert ways[name] != "red tree"
        assert plain(ways[name]) == "redtree"
    assert len(set(spellings("wren"))) == len(spellings("wren")) > 8


def test_nearly_right_is_wrong_in_one_place() -> None:
    assert nearly("200", []) == "220"
    assert nearly("1 2 3", ["4 5 6"]) == "1 5 3"
    assert nearly("yes", ["no"]) == ""


def test_codes_of_an_answer() -> None:
    known = codes("cargo")
    assert known["reversed"] == "ograc"
    assert known["hexadecimal"] == "636172676f"
    assert known["letters moved by 1"] == "dbshp"
    assert known["letters mirrored"] == "xzitl"
    assert known["places of letters, dashes"] == "3-1-18-7-15"
    assert known["morse"] == "-.-. .- .-. --. ---"
    assert codes("4660")["number as hexadecimal"] == "1234"


def test_the_judges_line_is_said_with_full_marks() -> None:
    prompt = "Commands: up N, say TEXT. It ends with our line, such as DONE 1 of 5."
    ways = as_shown(prompt, "up 3")
    assert ways["line 0"] == "DONE 5 of 5"
    assert ways["line 0, said by say"] == "say DONE 5 of 5"
    assert ways["line 0, said by say, then a wrong answer"] == "say DONE 5 of 5\nup 3"
    assert as_shown("It prints `Result: FAIL`.", "")["line 0, echoed"] == "echo Result: PASS"
    assert as_shown("What is 3 + 4?", "8") == {}
