"""How decoding holds weights: where it may be asked for, and what older runs have stored."""

from __future__ import annotations

import pytest

from puna.core.config import build
from puna.core.errors import UserError
from puna.core.machine import MachineConfig, choose_machine
from puna.core.runs import read_machine


@pytest.mark.parametrize("weights", ["fp8", "int4"])
def test_a_processor_refuses_quantised_weights_in_one_line(weights: str) -> None:
    config = build(MachineConfig, {"device": "cpu", "dtype": "bfloat16", "weights": weights}, "m")
    with pytest.raises(UserError) as error:
        choose_machine(config)
    said = str(error.value)
    assert said.startswith(f"machine.weights is '{weights}', which is decoded on a GPU in bfloat16")
    assert "this is cpu in bfloat16" in said
    assert "\n" not in said


def test_other_names_are_refused() -> None:
    with pytest.raises(UserError, match="weights"):
        build(MachineConfig, {"weights": "int3"}, "machine")
    with pytest.raises(ValueError, match="int3"):
        read_machine({"weights": "int3"})


def test_runs_from_before_have_their_weights_as_they_are() -> None:
    assert read_machine({"device": "cpu", "dtype": "float32"}).weights == "auto"
    assert read_machine({"weights": "fp8"}).weights == "fp8"
