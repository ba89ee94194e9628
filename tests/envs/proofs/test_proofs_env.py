"""The environment proofs: tasks of shipped or own files, and what each verdict is worth."""

from __future__ import annotations

from pathlib import Path

import pytest
from proof_kit import Here, seed

from puna.core.errors import UserError
from puna.core.messages import Message
from puna.core.outcome import Infra, Invalid, Outcome, Scored
from puna.envs.proofs import fast, specs
from puna.envs.proofs.env import Proofs, program
from puna.envs.proofs.prover import Verdict
from puna.gym.registry import load_environment
from puna.gym.task import Task
from puna.gym.trajectory import Episode

pytest.importorskip("z3", reason="z3-solver is not installed")


def outcomes(env: Proofs, task: Task, *answers: str, ended: str = "done") -> list[Outcome]:
    episodes = [Episode(task.id, (("agent", Message.assistant(a)),), {}, ended) for a in answers]
    return [v["agent"] for v in env.judge(episodes, task.hidden, None)]  # type: ignore[arg-type]


@pytest.fixture
def env() -> Proofs:
    """With the prover in this process, which is quicker."""
    made = Proofs()
    made.provers = {**made.provers, "fast": Here()}  # type: ignore[misc]
    return made


def test_every_task_has_a_reference_that_scores_and_cheats_that_do_not(env: Proofs) -> None:
    kinds = set()
    for split, count in (("train", 35), ("test", 20)):
        assert env.count(split) == count
        for i in range(count):
            task = env.task(split, i)
            right = env.oracle(task)["agent"](task.messages).text
            fenced = f"Here it is:\n\n```python\n{right}```\nIt holds."
            assert outcomes(env, task, right, fenced) == [Scored(1.0, True)] * 2
            cheats = env.cheats(task) if i % 9 == 0 else {}
            kinds |= set(cheats)
            for name, script in cheats.items():
                (given,) = outcomes(env, task, script["agent"](task.messages).text)
                assert isinstance(given, Scored), (task.id, name, given)
                assert (given.value, given.success) == (0.0, False), (task.id, name)
    assert len(kinds) > 20


def test_train_and_test_share_no_specification_even_with_other_names(env: Proofs) -> None:
    known = {split: [specs.canonical(s.header) for s in env.specs[split]] for split in env.specs}
    assert not set(known["train"]) & set(known["test"])
    assert all(len(set(k)) == len(k) for k in known.values())


def test_the_prompt_holds_the_specification_and_nothing_of_the_reference(env: Proofs) -> None:
    for i in range(env.count("test")):
        task = env.task("test", i)
        spec = task.hidden["spec"]
        assert f"```python\n{spec.header}```" in task.messages[0].text
        body = spec.reference[len(spec.header) :]
        assert body not in task.messages[0].text
        assert all(x not in task.messages[0].text for x in body.split("\n") if len(x) > 20)


def test_what_is_no_whole_answer_scores_nothing(env: Proofs) -> None:
    task = env.task("train", 0)
    right = env.oracle(task)["agent"](task.messages).text
    two = f"```python\n{right}```\n```python\n{right}```"
    prompt = task.messages[0].text
    answers = [
        "",
        "0",
        prompt,
        "I don't know.",
        two,
        right * 2,
        "x" * 1_000_000,
        "\ud800",
        "\0" + right,
    ]
    assert [o.value for o in outcomes(env, task, *answers)] == [0.0] * len(answers)  # type: ignore[union-attr]
    (cut,) = outcomes(env, task, right, ended="tokens")
    assert cut == Scored(0.0, False, evidence="the answer was cut off")


class Says:
    """A prover that knows stubs are wrong, and of the reference says what it is told to."""

    name = "fast"

    def __init__(self, verdict: Verdict, stubs: Verdict) -> None:
        self.verdict, self.stubs, self.reference = verdict, stubs, seed("train/larger").reference

    def version(self) -> str:
        return "1"

    def prove(self, source: str, deadline: float) -> Verdict:
        return self.verdict if source == self.reference else self.stubs


NO = Verdict("refuted", "no")


@pytest.mark.parametrize(
    ("verdict", "stubs", "outcome"),
    [
        (Verdict("valid"), NO, Scored(1.0, True)),
        (NO, NO, Scored(0.0, False, evidence="no")),
        (Verdict("unknown", "hm"), NO, Infra("fast: unknown: hm")),
        (Verdict("failed", "died"), NO, Infra("fast: failed: died")),
        (Verdict("valid"), Verdict("valid"), Invalid("the preconditions contradict each other")),
        (Verdict("valid"), Verdict("failed", "died"), Infra("failed: died")),
        (Verdict("valid"), Verdict("unknown"), Scored(1.0, True)),
    ],
)
def test_only_a_proof_and_a_refutation_are_scores(
    verdict: Verdict, stubs: Verdict, outcome: Outcome, env: Proofs
) -> None:
    index = next(i for i, s in enumerate(env.specs["train"]) if s.name == "larger")
    task = env.task("train", index)
    env.provers = {"fast": Says(verdict, stubs)}  # type: ignore[misc]
    assert outcomes(env, task, env.oracle(task)["agent"](task.messages).text) == [outcome]


RENAMED = "def double(m: int) -> int:\n    #@ ensures result == 2*m  # the same\n"
TWICE = "def twice(n: int) -> int:\n    #@ ensures result == 2 * n\n"


def folder(tmp_path: Path, **files: str) -> Path:
    root = tmp_path / "my own specs"
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_py", " x.py").replace("_dfy", ".dfy")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root.mkdir(exist_ok=True)
    return root


def test_own_files_with_and_without_a_body_and_names_with_spaces(tmp_path: Path) -> None:
    thrice = TWICE.replace("2 *", "3 *")
    root = folder(tmp_path, two_py=TWICE, train__three_py=thrice + "    return n + n + n\n")
    env = load_environment("proofs", {"specs": str(root)})
    assert isinstance(env, Proofs)
    assert [(s.name, bool(s.reference)) for s in env.specs["test"]] == [("two x", False)]
    assert [(s.name, bool(s.reference)) for s in env.specs["train"]] == [("three x", True)]
    assert not env.has_oracle
    task = env.task("test", 0)
    answer = TWICE + "    return n + n\n"
    assert outcomes(env, task, answer) == [Scored(1.0, True)]
    assert task.tags == {"language": "micro-python"}
    with pytest.raises(NotImplementedError, match="no reference"):
        env.oracle(task)


def test_a_specification_that_asks_for_nothing_is_the_tasks_fault(tmp_path: Path) -> None:
    text = "def f(n: int) -> int:\n    #@ requires n > 0 and n < 0\n    #@ ensures result == 5\n"
    env = Proofs(Proofs.Config(specs=str(folder(tmp_path, f_py=text))))
    (given,) = outcomes(env, env.task("test", 0), text + "    return 0\n")
    assert given == Invalid("the preconditions contradict each other")


def test_the_folders_contents_are_part_of_the_environment(tmp_path: Path) -> None:
    root = folder(tmp_path, two_py=TWICE)
    first = load_environment("proofs", {"specs": str(root)})
    again = load_environment("proofs", {"specs": str(root), "contents": first.config.contents})
    assert again.content_hash == first.content_hash  # type: ignore[attr-defined]
    (root / "two x.py").write_text(TWICE.replace("2 *", "4 *"))
    changed = load_environment("proofs", {"specs": str(root)})
    assert changed.content_hash != first.content_hash  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="has other contents"):
        load_environment("proofs", {"specs": str(root), "contents": first.config.contents})


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "has no .py, .dfy or .rs file"),
        ({"a_py": "x = 1\n"}, "a x.py: no line starts with `def`"),
        ({"a_py": TWICE + "#" * (1 << 20)}, "larger than 1,048,576 bytes"),
        ({"a_dfy": "method f()\n  ensures true\n"}, "a.dfy: no method or lemma with an `ensures`"),
        ({"a_py": TWICE, "train__b_py": RENAMED}, "are the same specification"),
    ],
)
def test_a_folder_that_cannot_serve(files: dict[str, str], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why.replace("(", r"\(")):
        Proofs(Proofs.Config(specs=str(folder(tmp_path, **files))))


def test_bytes_that_are_no_text_and_no_folder(tmp_path: Path) -> None:
    root = folder(tmp_path, a_py=TWICE)
    (root / "b.py").write_bytes(b"\xff\xfe def")
    with pytest.raises(UserError, match=r"b\.py: 'utf-8' codec"):
        specs.read_folder(root)
    with pytest.raises(UserError, match="no folder"):
        specs.read(tmp_path / "nowhere")


def test_a_specification_of_a_megabyte_is_judged(tmp_path: Path) -> None:
    comment = "    # " + "x" * 90 + "\n"
    text = TWICE.replace(":\n", ":\n" + comment * 10_700, 1)
    env = Proofs(Proofs.Config(specs=str(folder(tmp_path, a_py=text))))
    task = env.task("test", 0)
    right, wrong = (text + f"    return {v}\n" for v in ("n + n", "n"))
    assert len(right) > 1_030_000
    assert [o.value for o in outcomes(env, task, right, wrong)] == [1.0, 0.0]  # type: ignore[union-attr]


def test_twins_in_one_split_are_one_task(tmp_path: Path) -> None:
    root = folder(tmp_path, a_py=TWICE, b_py=RENAMED)
    assert [s.name for s in specs.read_folder(root)["test"]] == ["a x"]


def test_who_judges(env: Proofs, tmp_path: Path) -> None:
    assert env.prover(seed("train/larger")).name == "fast"
    outside = "#@ function g(n)\n\n" + TWICE.replace("2 * n", "g(n)")
    own = Proofs(Proofs.Config(specs=str(folder(tmp_path, a_py=outside, b_py=TWICE))))
    assert [own.prover(s).name for s in own.specs["test"]] == ["why3", "fast"]
    slow = Proofs(Proofs.Config(prover="why3"))
    assert slow.prover(seed("train/larger")).name == "why3"


def test_a_prover_that_is_needed_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"z3-solver is not installed; pip install 'puna\[proofs\]'"
    ):
        Proofs().setup()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="why3 or z3 is not installed; apt-get install"):
        Proofs(Proofs.Config(prover="why3")).setup()


@pytest.mark.parametrize("seconds", [0, -1, 601, float("nan")])
def test_a_time_that_is_none(seconds: float) -> None:
    with pytest.raises(UserError, match="seconds is"):
        load_environment("proofs", {"seconds": seconds})


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("\n\nx\ny", "x\ny\n"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("Well:\n```python\nx\n```\nso.", "x\n"),
        ("```\nx\n```", "x\n"),
        ("```\nx\n```\n```\ny\n```", "```\nx\n```\n```\ny\n```\n"),
        ("x ```y``` z", "x ```y``` z\n"),
        ("", "\n"),
    ],
)
def test_the_program_in_an_answer(answer: str, text: str) -> None:
    assert program(answer) == text
