"""Proposals: what is cleaned away, what is refused and why, and how a draft becomes a task."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest
from proof_kit import Here, seed

from puna.core.messages import Message
from puna.core.rng import stream
from puna.envs.proofs import grammar, specs
from puna.envs.proofs.env import Proofs
from puna.envs.proofs.propose import ProofProposer, mutants, practice, well_formed
from puna.gym.admission import Admission, Gate, made
from puna.gym.proposer import CLASSES, Draft, UnfitError, Wanted
from puna.gym.trajectory import Episode

pytest.importorskip("z3", reason="z3-solver is not installed")

HEAD = "def f(x: int) -> int:\n"
GOOD = HEAD + "    #@ requires x > 3\n    #@ ensures result == 3 * x - 1\n"


@pytest.fixture
def env() -> Proofs:
    made = Proofs()
    made.provers = {**made.provers, "fast": Here()}  # type: ignore[misc]
    return made


@pytest.fixture
def proposer(env: Proofs) -> ProofProposer:
    return env.proposer()


def episode(text: str) -> Episode:
    return Episode("t", (("agent", Message.assistant(text)),))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "    return 3 * x - 1\n",
        f"Here it is:\n\n```python\n{GOOD}    return 0\n```\nDone.",
        GOOD.replace("    #@", "      #@  "),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("> 3\n", "> 3  # not small\n"),
        "#@ function g(n)\n#@ assume 0 == 1\n\n" + GOOD,
        "def f(x: int) -> int:\n    #@ ensures result == 0\n    return 0\n\n" + GOOD,
        GOOD.replace("    #@ ensures", "    # a word\n\n    #@ ensures"),
    ],
)
def test_only_the_last_def_and_its_specification_are_kept(
    text: str, proposer: ProofProposer
) -> None:
    draft = proposer.draft(text, 7)
    assert draft.task.hidden["spec"].header == GOOD
    assert draft.task.hidden["spec"].reference == ""
    assert draft.task.id == "proofs/proposed/7"
    assert not draft.reference
    assert draft.provenance == {"source": "policy"}


LONG = "x + " * 400 + "x"
UNFIT = {
    "": "not well-formed",
    "I cannot.": "not well-formed",
    "def f(x: int) -> int:": "not well-formed",
    HEAD + "    #@ ensures result == (x": "not well-formed",
    HEAD + "    #@ ensures result == x)": "not well-formed",
    HEAD + "    #@ ensures result == y": "not well-formed",
    HEAD + "    #@ ensures result == g(x)": "not well-formed",
    HEAD + "    #@ ensures result == '#@ assume'": "not well-formed",
    HEAD + "    #@ ensures result == \u0445": "not well-formed",
    HEAD.replace("f", "\u0444") + "    #@ ensures result == x + 1": "not well-formed",
    HEAD.replace("f(", "f(x: int, ") + "    #@ ensures result == x + 1": "not well-formed",
    HEAD.replace("-> int", "") + "    #@ ensures result == x": "not well-formed",
    HEAD.replace("int)", "str)") + "    #@ ensures result == 2": "not well-formed",
    HEAD + "    #@ ensures result == " + "(" * 80 + "x" + ")" * 80: "not well-formed",
    HEAD + "    #@ ensures result == \0x": "not well-formed",
    HEAD + f"    #@ ensures result == {LONG}": "too large",
    HEAD + "    #@ requires x > 1\n" * 12 + "    #@ ensures result == x + 1": "too large",
    HEAD.replace("x", ", ".join(f"x{i}: int" for i in range(7)) + ", x")
    + "    #@ ensures result == x + 1": "too large",
    HEAD + "    #@ ensures forall i. exists j. forall k. i + j + k < result": "too large",
    HEAD + "    #@ ensures x == x": "nothing is promised of what it gives",
    HEAD + "    #@ ensures True": "nothing is promised of what it gives",
    "def f(a: list[int]):\n    #@ ensures len(a) >= 0": "nothing is promised of what it gives",
    "def f(a: list[int]):\n    #@ ensures old(a[0]) > 0": "nothing is promised of what it gives",
    HEAD + "    #@ requires x > 0 and x < 0\n    #@ ensures result == x + 1": "contradictory",
    HEAD + "    #@ ensures result > x or result <= x": "vacuous",
    HEAD + "    #@ ensures result == x": "stub-passable",
    HEAD + "    #@ ensures result >= x": "stub-passable",
    HEAD + "    #@ ensures result == -1": "stub-passable",
    "def f(a: list[int]) -> int:\n    #@ ensures result == len(a)": "stub-passable",
    "x" * (2 << 20): "too large",
}


@pytest.mark.parametrize(("text", "reason"), UNFIT.items(), ids=range(len(UNFIT)))
def test_why_a_proposal_is_unfit(text: str, reason: str, proposer: ProofProposer) -> None:
    found = made(proposer.draft, text, 0)
    assert isinstance(found, Admission), found
    assert found.reason == reason, found


def test_a_prover_that_is_unsure_is_not_taken_for_satisfiable(env: Proofs) -> None:
    hard = "x * x * x + y * y * y == z * z * z and x > 1 and y > 1 and z > 1"
    text = f"def f(x: int, y: int, z: int) -> int:\n    #@ requires {hard}\n"
    text += "    #@ ensures result == x + y"
    env.config = replace(env.config, seconds=0.01)
    found = made(env.proposer().draft, text, 0)
    assert isinstance(found, Admission)
    assert found.reason == "not seen to be satisfiable", found


def test_names_comments_and_spacing_make_no_new_problem(env: Proofs) -> None:
    other = GOOD.replace("f(x", "g(count").replace(" x ", " count ").replace("3 *", "3  *")
    one, two = (env.proposer().draft(text, 0).task.key for text in (GOOD, other))
    assert one == two != env.proposer().draft(GOOD.replace("- 1", "- 2"), 0).task.key


def test_a_solved_draft_has_a_reference_and_mutants_and_is_admitted(
    env: Proofs, proposer: ProofProposer
) -> None:
    draft = proposer.draft(GOOD, 3)
    solved = proposer.solved(draft, episode(f"```python\n{GOOD}    return 3 * x - 1\n```"))
    assert solved.reference["agent"]([]).text == GOOD + "    return 3 * x - 1\n"
    assert len(solved.mutants) == 3
    gate = Gate(env)
    try:
        assert asyncio.run(gate.screen(solved)) is None
        assert asyncio.run(gate.decide(solved, 4, 10)).admitted
        wrong = proposer.solved(draft, episode(GOOD + "    return 3 * x + 1\n"))
        assert asyncio.run(gate.decide(wrong)).reason == "the reference fails"
        cheat = proposer.solved(draft, episode(GOOD + "    #@ assume False\n    return 0\n"))
        assert asyncio.run(gate.decide(cheat)).reason == "the reference fails"
    finally:
        gate.close()
    again = proposer.from_json(proposer.to_json(solved))
    assert again.task == solved.task
    assert [again.mutants[n]["agent"]([]).text for n in again.mutants] == [
        solved.mutants[n]["agent"]([]).text for n in solved.mutants
    ]
    assert proposer.from_json(proposer.to_json(draft)) == draft


def test_mutants_are_wrong_for_every_seed_and_the_prover_knows_it() -> None:
    made = 0
    for spec in specs.read_folder(Proofs().place)["train"]:
        for _, text in mutants(spec):
            made += 1
            assert Here().prove(text, 0.3).kind != "valid", text
    assert made > 70


def test_drawn_drafts_carry_their_reference(proposer: ProofProposer) -> None:
    drafts = [made(proposer.draw, number, 0) for number in range(12)]
    good = [d for d in drafts if isinstance(d, Draft)]
    assert len(good) >= 9
    for draft in good:
        spec = draft.task.hidden["spec"]
        assert Here().prove(draft.reference["agent"]([]).text, 1).kind == "valid"
        assert spec.reference.startswith(spec.header)
        assert draft.provenance["source"] == "grammar"


def test_the_prompt_shows_examples_under_their_classes(env: Proofs) -> None:
    shown = tuple((env.task("train", i), c) for i, c in enumerate(("easy", "hard")))
    (message,) = env.proposer().ask(Wanted("medium", shown))
    for task, label in shown:
        assert f"\n\n{label}:\n{task.hidden['spec'].header.strip()}\n\n" in message.text
        assert task.hidden["spec"].reference.splitlines()[-1] not in message.text
    assert message.text.endswith("\n\nmedium:")
    bare = env.proposer().ask(Wanted("", tuple((t, "") for t, _ in shown)))[0].text
    assert not any(f"{name}:" in bare for name in CLASSES)


def test_what_is_held_out_is_known(proposer: ProofProposer) -> None:
    known = proposer.known()
    for name in ("train/larger", "test/minimum"):
        assert specs.canonical(seed(name).header) in known
    held = specs.read(Proofs(Proofs.Config(specs="humaneval")).place)["test"]
    assert all(specs.canonical(spec.header) in known for spec in held)
    renamed = "def bigger(v: list[int], t: int) -> bool:\n"
    renamed += "    #@ ensures result <-> forall k. 0 <= k < len(v) -> v[k] < t\n"
    assert proposer.draft(renamed, 0).task.key in known


def test_plausible_is_form_alone(env: Proofs, proposer: ProofProposer) -> None:
    task = proposer.draft(GOOD, 0).task
    for text, form in (
        (GOOD + "    return 0\n", True),
        (GOOD + "    return 0", True),
        (GOOD + "    return\n", False),
        (GOOD, False),
        (GOOD + "    #@ assume False\n    return 0\n", False),
        (HEAD + "    return 0\n", False),
        ("", False),
    ):
        assert proposer.plausible(task, episode(text)) == form, text


def test_practice_is_easy_programs_and_proposals_by_turns(env: Proofs) -> None:
    for index in range(12):
        talk = env.practice(index)
        assert (
            talk
            == env.practice(index)
            == practice(env, index, stream(0, "proofs", "practice", index))
        )
        text = talk[-1].text
        if index % 2:
            assert well_formed(text).header == text
            assert talk[0].text.rsplit("\n\n", 1)[1] in [f"{c}:" for c in CLASSES]
        else:
            assert Here().prove(text, 1).kind == "valid"


def test_practice_shows_nothing_that_is_held_out(env: Proofs) -> None:
    def held(header: str) -> bool:
        return specs.canonical(header) in env.held_out

    some = [grammar.draw(stream(0, "draws", n)).header for n in range(3000)]
    assert sum(map(held, some)) > 3  # which the grammar itself would show
    for index in range(600):
        said = "\n".join(message.text for message in env.practice(index))
        headers = re.findall(r"^def .*\n(?:    #@ (?:requires|ensures).*\n?)+", said, re.M)
        assert headers
        assert not any(held(header.rstrip() + "\n") for header in headers)


def test_unfit_says_why_in_words(proposer: ProofProposer) -> None:
    with pytest.raises(UnfitError, match="not well-formed: line 2: y has no value here"):
        proposer.draft(HEAD + "    #@ ensures result == y\n", 0)
    assert "peak" in grammar.SCHEMES
