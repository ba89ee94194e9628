"""Every case of benchmarks/parity: equal to other implementations, and able to see a difference."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("transformers")

from benchmarks.parity.case import Case, Found
from benchmarks.parity.cases import CASES, missing


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if c.slow else ()) for n, c in CASES.items()],
)
@pytest.mark.timeout(1800)
def test_parity(name: str) -> None:
    case = CASES[name]
    if lacking := missing(case.peer):
        pytest.skip(lacking)
    if case.incomparable:  # not a skip: no installation would make this processor compare
        return
    found = case.measure()
    assert found.difference <= case.allowed, found.note
    assert found.off, "a case without a feature to leave out proves nothing"
    assert case.blind(found) == []
    assert case.passes(found)


def made(tolerance: float, loose: float | None = 2e-6, dtype: str = "fp32") -> Case:
    return Case("case", lambda: Found(0.0), tolerance, "transformers", dtype, False, loose)


@pytest.mark.parametrize(
    ("difference", "seen", "passes"),
    [(2e-6, 3e-4, True), (3e-6, 3e-4, False), (0.0, 1e-4, False), (float("nan"), 3e-4, False)],
)
def test_a_case_fails_for_a_difference_and_for_blindness(
    difference: float, seen: float, passes: bool
) -> None:
    case = made(2e-6)
    assert case.passes(Found(difference, {"feature": seen})) is passes
    assert not case.passes(Found(0.0, {"feature": float("nan")}))
    assert not case.passes(Found(0.0, {"feature": 1.0, "other": seen / 10}))


def test_a_case_that_leaves_nothing_out_fails() -> None:
    assert not made(2e-6).passes(Found(0.0))
    assert not made(0.0).passes(Found(0.0, {}))


@pytest.mark.parametrize("depends", [False, True])
def test_power_is_a_multiple_of_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, depends: bool
) -> None:
    """On a processor whose products depend on the number of rows, and on others."""
    monkeypatch.setattr("benchmarks.parity.case.rows_matter", lambda dtype: depends)
    for case in (made(2e-6), made(3e-5), made(0.0, 2e-6), made(0.0, 0.3, "bf16")):
        assert case.needed == pytest.approx(100 * (case.allowed or 2e-6))
        assert not case.incomparable
        assert not case.passes(Found(0.0, {"feature": case.needed * 0.99}))
        assert case.passes(Found(case.allowed, {"feature": case.needed * 1.01}))
    assert made(0.0, 0.3, "bf16").allowed == (0.3 if depends else 0.0)
    rounded = made(0.0, None, "bf16")
    assert bool(rounded.incomparable) is depends
    assert rounded.allowed == 0.0


LONG = """
import resource, torch
from puna.engine.cache import KVCache
from puna.engine.local import Engine, Request
from puna.engine.policy import SamplingParams
from puna.models import ModelConfig, build
from puna.text.tokenizer import Tokenizer
torch.set_num_threads(1)
config = ModelConfig(
    "llama4", 300, 32, 4, 2, 1, 16, 32, attention_chunk=8192, nope_every=4, qk_norm=True,
    temperature_tuning=True, max_positions=32768,
)
model, ids = build(config).eval(), torch.randint(0, 256, (1, 24000))
engine = Engine(model, Tokenizer.train(["the llama of the puna"] * 3, 300), 0)
request = Request(tuple(ids[0].tolist()), SamplingParams(max_tokens=2), ("long",))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
start = peak()
with torch.no_grad():
    model(ids)
whole = peak()
engine.generate([request])
print(whole - start, peak() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_a_long_row_needs_no_square_mask() -> None:
    """24,000 tokens squared are 2,200 MiB in fp32; one pass and a prefill stay far below."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    one_pass, prefill = map(int, done.stdout.split())
    assert one_pass < 400
    assert prefill < 800
