"""What a completion may be: JSON, a regex or a Lark grammar; by `llguidance`.

`matcher = json_grammar(tokenizer, {"type": "integer"}).matcher()` follows one completion, and
`apply(logits_BV, [matcher, None])` leaves it the tokens that its grammar allows.

B rows, V the model's vocabulary, W words of 32 tokens.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, TypeVar

import torch

from puna.core.errors import UserError
from puna.engine.finite import may_end
from puna.text.template import stop_ids
from puna.text.tokenizer import Tokenizer

MAX_SOURCE = 1_000_000  # characters of a grammar
MAX_NODES = 5_000  # brackets and colons of a schema or of Lark: what llguidance may recurse over
STACK = 256 << 20  # bytes of address space that it may recurse in: an overflow ends the process
SPACE = r" |\n[ \t]{0,40}"  # white space in JSON: a model that finds no end would write it for ever
# Every token that fits is allowed, not only those by which this tokenizer would spell a text.
OPTIONS = '%llguidance {"no_forcing": true}'
_WHERE = re.compile(r"^at \d+\(\d+\): failed to compile JSON schema: ")
_FIX = "leave that out or write it otherwise"
# For every value of eight bits of a mask, eight bytes as one number: 1 for each bit that is 0.
_SHUT = torch.tensor(
    [sum(1 << 8 * bit for bit in range(8) if not octet >> bit & 1) for octet in range(256)]
)

T = TypeVar("T")


@dataclass(frozen=True)
class Grammar:
    """A grammar in llguidance's Lark over the tokens of one tokenizer, compiled once.

    Raises UserError, naming `what`, where nothing fits it or llguidance refuses it.
    """

    tokenizer: Tokenizer = field(repr=False)
    lark: str
    what: str = field(compare=False)

    def __post_init__(self) -> None:
        """Compiles it, and asks what may come first."""
        try:
            _compiled(self.tokenizer, self.lark)
        except _RefusedError as error:
            raise UserError(f"{self.what}: {error}", _FIX) from None

    def matcher(self) -> Matcher:
        """One that has seen nothing yet."""
        return Matcher(_compiled(self.tokenizer, self.lark).deep_copy(), self.tokenizer)


class Matcher:
    """Follows one completion through a grammar; `done` once a token has ended the turn.

    Until then some token is allowed: where the grammar is complete, those that end a turn.
    """

    def __init__(self, inner: Any, tokenizer: Tokenizer) -> None:
        self.inner, self.tokenizer = inner, tokenizer
        self.words = -(-tokenizer.vocab_size // 32)
        self.stops = frozenset(stop_ids(tokenizer))
        self.done = False

    def allowed(self, row: torch.Tensor) -> None:
        """Writes a bit per token of the tokenizer into `row`, int32 [W] on the CPU."""
        self.inner.unsafe_compute_mask_ptr(row.data_ptr(), row.nbytes)

    def accept(self, token: int) -> None:
        """Goes on behind `token`. Raises ValueError where it is not allowed, and stays there."""
        over = self.inner.is_stopped()  # complete or given up: only the end may follow
        fits = token in self.stops if over else self.inner.try_consume_tokens([token]) == 1
        broke = self.inner.is_error() and not over  # the token is allowed, what follows too much
        if self.done or not (fits or broke):
            raise ValueError(f"token {token} does not fit the grammar")
        self.done = token in self.stops

    @property
    def failed(self) -> str:
        """Why only the end is allowed where the grammar is not complete; "" if nothing went wrong.

        A limit of llguidance, or a place that no token leads out of.
        """
        return _reason(self.inner.get_error()) if self.inner.is_error() else ""

    def copy(self) -> Matcher:
        """Another at the same place."""
        other = Matcher(self.inner.deep_copy(), self.tokenizer)
        other.done = self.done
        return other


def apply(logits_BV: torch.Tensor, matchers: Sequence[Matcher | None]) -> torch.Tensor:
    """Logits with -inf for what the matcher of each row does not allow; None allows everything.

    Ids behind the tokenizer's are never allowed. The masks are filled on the CPU, in parallel.
    """
    kept = [(i, m) for i, m in enumerate(matchers) if m is not None]
    if not kept:
        return logits_BV
    device, vocab = logits_BV.device, logits_BV.shape[1]
    bits = torch.empty(len(kept), kept[0][1].words, dtype=torch.int32)
    inner = [(matcher.inner, k) for k, (_, matcher) in enumerate(kept)]
    _executor().unsafe_compute_mask_ptr(inner, bits.data_ptr(), bits[0].nbytes, len(kept))
    octets = bits.view(torch.uint8).to(device).long()
    shut = _SHUT.to(device)[octets].view(torch.bool)[:, :vocab]
    shut = torch.nn.functional.pad(shut, (0, vocab - shut.shape[1]), value=True)
    rows = torch.tensor([i for i, _ in kept], device=device)
    closed_BV = torch.zeros_like(logits_BV, dtype=torch.bool).index_copy(0, rows, shut)
    return logits_BV.masked_fill(closed_BV, -torch.inf)


def json_grammar(tokenizer: Tokenizer, schema: Mapping[str, Any] | bool | None) -> Grammar:
    """JSON that `schema` allows (any object for None), its properties in the order given there.

    White space is a blank or a line break with indentation. Raises UserError for keywords that
    llguidance has not (it names them), and for a schema that nothing finite fits.
    """
    what = "JSON schema"
    rule = json_rule({"type": "object"} if schema is None else schema, what)
    return Grammar(tokenizer, f"start: {_gap(tokenizer)}json\njson: {rule}\n{OPTIONS}", what)


def regex_grammar(tokenizer: Tokenizer, regex: str) -> Grammar:
    """Texts that match `regex` as a whole (Rust's syntax: no look-around, no back-references)."""
    _bounded(regex, "regex")
    pattern = _llguidance().regex_to_lark(regex)
    lark = f"start: {_gap(tokenizer)}R\nR: /{pattern}/\n{OPTIONS}"
    return Grammar(tokenizer, lark, "regex")


def lark_grammar(tokenizer: Tokenizer, lark: str) -> Grammar:
    """Texts of a grammar in llguidance's Lark, whose special tokens are `<|eot|>` or `<[7]>`."""
    _bounded(lark, "grammar")
    return Grammar(tokenizer, f"{lark}\n{OPTIONS}", "grammar")


def json_rule(schema: Mapping[str, Any] | bool, what: str) -> str:
    """A JSON schema as Lark."""
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise UserError(f"{what}: it is {schema!r}"[:200], "give an object of JSON schema keywords")
    try:
        options = {"x-guidance": {"whitespace_pattern": SPACE}}
        text = json.dumps({**schema, **options}, ensure_ascii=False, allow_nan=False)
        _bounded(text, what)
        finite = may_end(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{what}: it is no JSON: {error}"[:200], "give JSON values") from None
    if not finite:
        what = f"{what}: a value that fits must hold another that fits, without an end"
        raise UserError(what, "leave one of the properties optional")
    return f"%json {text}"


def _bounded(text: str, what: str) -> None:
    """Raises UserError where llguidance could recurse too deep, or not read `text` at all."""
    if text.encode("utf-8", "replace") != text.encode("utf-8", "surrogatepass"):
        raise UserError(f"{what}: it holds half a character", "give Unicode text")
    if sum(map(text.count, ":[(")) > MAX_NODES or len(text) > MAX_SOURCE:
        limits = f"{MAX_NODES:,} brackets and colons or {MAX_SOURCE:,} characters"
        raise UserError(f"{what}: it has more than {limits}", "make it smaller")


def _gap(tokenizer: Tokenizer) -> str:
    """The blank that a format has before an answer, which a completion may leave out."""
    return f'"{tokenizer.format.space}"? ' if tokenizer.format.space else ""


class _RefusedError(Exception):
    """What llguidance says."""


@lru_cache(maxsize=256)
def _compiled(tokenizer: Tokenizer, lark: str) -> Any:
    """llguidance's matcher at its beginning, to be copied."""
    if len(lark) > MAX_SOURCE:
        raise _RefusedError(f"it has more than {MAX_SOURCE:,} characters")
    vocabulary = _vocabulary(tokenizer)
    source = json.dumps({"grammars": [{"lark_grammar": lark}]})

    def compiled() -> Any:
        matcher = _llguidance().LLMatcher(vocabulary, source, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # that nothing fits is seen here
        return matcher

    matcher = _in_a_deep_stack(compiled)
    if matcher.is_error():
        raise _RefusedError(_reason(matcher.get_error()))
    return matcher


def _in_a_deep_stack(work: Callable[[], T]) -> T:
    """What `work` returns, from a thread with room for deep recursion."""
    out: list[T] = []
    before = threading.stack_size(STACK)
    try:
        thread = threading.Thread(target=lambda: out.append(work()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return out[0]


def _reason(message: str) -> str:
    """One line of llguidance's answer."""
    if message.startswith("NoExtension"):
        return "nothing fits it"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return _WHERE.sub("", (errors or lines or [message])[0])[:200]


@dataclass(frozen=True)
class _Vocabulary:
    """A tokenizer as `llguidance.TokenizerWrapper` takes it."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    encode: Callable[[str], list[int]]
    bos_token_id: None = None

    def __call__(self, text: str) -> list[int]:
        return self.encode(text)


@lru_cache(maxsize=16)
def _vocabulary(tokenizer: Tokenizer) -> Any:
    """llguidance's view of a tokenizer: bytes of its tokens, special ones apart, what ends a turn.

    Raises UserError where nothing ends a turn, or the bytes are unknown.
    """
    llguidance = _llguidance()
    stops = stop_ids(tokenizer)
    if not stops:
        raise UserError("this tokenizer has no token that ends a turn", "use a chat model's")
    tokens, special = list[bytes](), list[int]()
    for i, text in enumerate(tokenizer.spelling()):
        if text is None:
            special.append(i)
            text = (tokenizer.decode([i], skip_special=False) or f"<{i}>").encode()
        tokens.append(text)
    wrapped = llguidance.TokenizerWrapper(_Vocabulary(tokens, special, stops[0], tokenizer.encode))
    return llguidance.LLTokenizer(wrapped, eos_token=stops)


@cache
def _executor() -> Any:
    return _llguidance().LLExecutor()


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UserError("grammars need llguidance", "pip install 'puna[grammar]'") from None
    return llguidance
