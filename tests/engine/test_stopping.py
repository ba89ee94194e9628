"""Texts that end a completion, however tokens cut them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_local_engine import TOKENIZER, engine, requests

from puna.engine.local import Request
from puna.engine.policy import SamplingParams
from puna.engine.stopping import Stopping
from puna.text.aligned import spelled


def heard(text: str, *stops: str) -> int | None:
    """After how many tokens it stops."""
    stopping = Stopping(TOKENIZER, stops)
    return next((n for n, i in enumerate(TOKENIZER.encode(text), 1) if stopping.hear(i)), None)


def test_the_token_that_completes_it_is_the_last() -> None:
    ids = TOKENIZER.encode("the llama")
    assert heard("the llama of", "llama") == len(ids)
    assert heard("the llama of", "puna", "llama") == len(ids)
    assert heard("the lama", "llama") is None
    assert heard("the llama") is None
    assert heard("the llama", "") is None


@settings(max_examples=200)
@given(st.text("lamué🦙 ", max_size=20), st.text("lamué🦙 ", min_size=1, max_size=4))
def test_it_stops_where_the_text_is_there(text: str, stop: str) -> None:
    ids = TOKENIZER.encode(text)
    letters = [spelled(TOKENIZER)[i] for i in ids]
    wanted = next(
        (n for n in range(1, len(ids) + 1) if stop.encode() in b"".join(letters[:n])), None
    )
    assert heard(text, stop) == wanted


@pytest.mark.parametrize("shape", ["dense", "moe"])
def test_the_engine_stops_there_and_draws_the_same_before(shape: str) -> None:
    """A completion with stop texts is a beginning of the one without."""
    asked = requests(12, 30)
    plain = engine(shape).generate(asked)
    letters = spelled(TOKENIZER)
    middle = [letters[i] for row in plain for i in row.ids[1:-1]]
    first = next(text for text in middle if text.isascii() and text.isalnum()).decode()
    stopped = engine(shape).generate(
        [Request(r.prompt_ids, SamplingParams(r.params.max_tokens, stop=(first,)), r.key)
         for r in asked]
    )  # fmt: skip
    shorter = 0
    for before, after in zip(plain, stopped, strict=True):
        said = [letters[i] for i in before.ids]
        wanted = next(
            (n for n in range(1, len(said) + 1) if first.encode() in b"".join(said[:n])), len(said)
        )
        assert after.ids == before.ids[:wanted]
        assert after.logprobs == pytest.approx(before.logprobs[:wanted], abs=1e-6)
        shorter += wanted < len(said)
        if wanted < len(said):
            assert after.finish == "stop"
    assert shorter  # without the stop text it would have gone on
