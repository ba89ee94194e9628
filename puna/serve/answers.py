"""From a request to what the engine draws: rendered, fitted into the context, constrained.

`job = await prepare(model, "rl", asked)`; `job.ticket` goes to the worker, and each choice has a
speaker that hears its tokens.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puna.core.errors import UserError
from puna.gateway.asked import Asked, Head
from puna.gateway.pictures import check_images
from puna.gateway.reading import BadRequest
from puna.gateway.speaker import Continuation, Speaker
from puna.serve.tickets import Ticket
from puna.text.images import Picture, pictures_in

if TYPE_CHECKING:
    from puna.agents.model import Model

UNASKED = 4096  # tokens of an answer whose length nobody limited: room for them is kept at once


@dataclass(frozen=True)
class Job:
    """A request ready for the worker; a speaker for each of its choices."""

    ticket: Ticket
    head: Head
    speakers: Sequence[Speaker | Continuation]


async def prepare(model: Model, name: str, asked: Asked, prefix: str) -> Job:
    """Everything the worker needs. Raises BadRequest where the request does not fit the model.

    `prefix` begins the answer's id.
    """
    return await asyncio.to_thread(_prepare, model, name, asked, prefix, asyncio.get_running_loop())


def _prepare(
    model: Model, name: str, asked: Asked, prefix: str, loop: asyncio.AbstractEventLoop
) -> Job:
    from puna.engine.local import Request
    from puna.engine.policy import SamplingParams

    engine = model.engine
    prompts, pictures = prompts_of(engine.tokenizer, name, asked)
    most = max(map(len, prompts))
    room = engine.max_context - most
    if room < 1:
        what = f"the prompt has {most} tokens, {name} takes {engine.max_context - 1}"
        raise BadRequest(what, _where(asked), "context_length_exceeded")
    params = SamplingParams(
        max_tokens=min(room, asked.max_tokens or UNASKED),
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        top_logprobs=asked.top_logprobs,
        grammar=_grammar(engine.tokenizer, asked),
    )
    seed = secrets.randbits(63) if asked.seed is None else asked.seed
    each = [ids for ids in prompts for _ in range(asked.n)]
    requests = [
        Request(ids, params, ("serve", seed, i), tuple(pictures)) for i, ids in enumerate(each)
    ]
    read = sum(map(len, prompts))
    stamp = f"{prefix}{secrets.token_hex(12)}"
    head = Head(stamp, name, int(time.time()), engine.tokenizer, tuple(each), read)
    listener = Speaker if asked.chat else Continuation
    speakers = [listener(engine.tokenizer, asked) for _ in each]
    return Job(Ticket(name, requests, loop, whole=not asked.stream), head, speakers)


def prompts_of(
    tokenizer: Any, name: str, asked: Asked
) -> tuple[list[tuple[int, ...]], list[Picture]]:
    """Ids of each prompt, and the images of the conversation, if it is one."""
    from puna.text.template import render

    if asked.prompts:
        return [_ids(tokenizer, prompt) for prompt in asked.prompts], []
    check_images(tokenizer, name, asked.messages, _where(asked))
    tools = asked.tools if asked.choice != "none" else ()
    try:
        ids = render(tokenizer, asked.messages, tools=tools, open_turn=True).ids
        return [tuple(ids)], pictures_in(tokenizer, asked.messages, ids)
    except UserError as error:
        raise BadRequest(str(error), _where(asked)) from None
    except RecursionError:
        raise BadRequest("tools are nested too deeply", "tools") from None


def _ids(tokenizer: Any, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(prompt, str):
        ids = (*tokenizer.opening, *tokenizer.encode(prompt))
        if not ids:
            raise BadRequest("the prompt is empty", "prompt")
        return ids
    if max(prompt) >= tokenizer.vocab_size:
        what = f"token id {max(prompt)} is beyond the vocabulary of {tokenizer.vocab_size}"
        raise BadRequest(what, "prompt_token_ids")
    if tokenizer.tiling is not None and tokenizer.special("patch") in prompt:
        raise BadRequest("ids of an image stand for no image here; send messages", "prompt")
    return prompt


def _grammar(tokenizer: Any, asked: Asked) -> Any:
    """What may be drawn: None for anything. Raises BadRequest for what no grammar can say.

    Tools constrain an answer where it must call, may call one only, or a tool says `strict`.
    """
    tools = bool(asked.tools) and asked.choice != "none"
    if asked.schema is not None:
        if tools:
            what = "response_format beside tools is not supported; say tool_choice 'none'"
            raise BadRequest(what, "response_format")
        where = "response_format"
    else:
        strict = any(t["function"].get("strict") for t in asked.tools)
        if not tools or not (strict or asked.choice != "auto" or not asked.parallel):
            return None
        where = "tools"
    try:
        from puna.engine.grammar import json_grammar
        from puna.engine.tool_grammar import tool_grammar

        if asked.schema is not None:
            return json_grammar(tokenizer, asked.schema)
        return tool_grammar(tokenizer, asked.tools, asked.choice, asked.parallel)
    except UserError as error:
        raise BadRequest(f"{where}: {error}", where) from None
    except RecursionError:
        raise BadRequest(f"{where} is nested too deeply", where) from None


def _where(asked: Asked) -> str:
    """What the protocol calls its input."""
    names = ("messages", "input", "prompt_token_ids", "prompt")
    return next((n for n in names if n in asked.given), "messages")
