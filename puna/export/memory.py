"""Bytes that Puna's decoder takes, counted from its shape: weights, cache, activations, training.

`weight_bytes(preset("llama4-scout"), "int4")`; `benchmarks/plan.py` compares with what PyTorch
allocates. Widths are the compute dtype's bytes: 2 (bf16) or 4 (fp32).
Legend: B rows, T tokens of a row, M = B * T, D model width, F inner width, H query heads, K key
heads, W width of a head, V vocabulary, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from puna.engine.batch import AHEAD
from puna.engine.pages import SIZE, divisor
from puna.engine.reading import ALIKE, PASS, PREFILL
from puna.engine.step import LARGEST, PACKED
from puna.export.eyes import looking
from puna.models.config import ModelConfig

Precision = Literal["fp32", "bf16", "int8", "int4"]
WIDTH: dict[str, int] = {"fp32": 4, "bf16": 2, "int8": 2, "int4": 2}
GROUP = 128  # weights that share a scale in int4, along a row of the matrix (Meta's int4_mixed)


def weight_bytes(config: ModelConfig, precision: Precision) -> int:
    """All weights. int8 and int4 hold the feed-forward matrices (experts, shared, dense) so.

    That is what Meta's own releases quantise: rows with one fp32 scale each in 8 bits, groups of
    128 with one fp32 scale in 4; attention, routers, norms, embedding and head stay bf16.
    """
    if precision in ("fp32", "bf16"):
        return config.num_parameters() * WIDTH[precision]
    held, scales = 0, 0
    for rows, columns in _feed_forward_matrices(config):
        held += rows * columns
        scales += rows * (1 if precision == "int8" else -(-columns // GROUP))
    packed = held if precision == "int8" else -(-held // 2)
    return packed + 4 * scales + 2 * (config.num_parameters() - held)


def _feed_forward_matrices(config: ModelConfig) -> list[tuple[int, int]]:
    """[out, in] of every matrix that quantisation reaches; equal ones as one with more rows."""
    width, found = config.hidden_size, []
    moe = config.num_moe_layers
    for inner, count in (
        (config.expert_size, moe * (config.num_experts + 1)),
        (config.intermediate_size, config.num_layers - moe),
    ):
        found += [(count * 2 * inner, width), (count * width, inner)]
    return [matrix for matrix in found if matrix[0]]


def cache_bytes(config: ModelConfig, rows: int, context: int, width: int) -> int:
    """Keys and values of `rows` sequences: local layers hold one attention chunk at most.

    As the pools of `puna.engine.pages` have them: whole pages, and one slot more a layer and tensor
    as its waste bin.
    """
    slots = sum(rows * config.num_kv_heads * n + 1 for n in _slots(config, context))
    return 2 * slots * config.head_dim * width


def naive_cache_bytes(config: ModelConfig, rows: int, context: int, width: int) -> int:
    """The same where every layer keeps every token."""
    tokens = rows * context * config.num_layers
    return 2 * tokens * config.num_kv_heads * config.head_dim * width


def _slots(config: ModelConfig, context: int) -> list[int]:
    """How many tokens the pages of a sequence hold, of each layer."""
    chunk, size = config.attention_chunk, _page(config)
    local = (config.is_local(i) for i in range(config.num_layers))
    held = (min(context, chunk) if near and chunk is not None else context for near in local)
    return [-(-n // size) * size for n in held]


def _page(config: ModelConfig) -> int:
    chunk = config.attention_chunk
    return SIZE if chunk is None else divisor(chunk, SIZE)


def rope_bytes(config: ModelConfig, context: int) -> int:
    """The table of rotations: complex64 in Llama 4; in Llama 3 four halves of fp32."""
    positions = 1 << max(8, (context - 1).bit_length())
    return positions * config.head_dim * (4 if config.family == "llama4" else 8)


@dataclass(frozen=True)
class Generation:
    """Bytes of the engine: what stays, and the most that a step or a prompt adds for a while.

    `folded` is the second set of weights that small models decode with (`puna.engine.step`).
    `tiles` are the pixels of pictures, `looking` what the vision encoder adds on its way.
    """

    weights: int
    folded: int
    cache: int
    table: int
    step: int
    prompt: int
    tiles: int = 0
    looking: int = 0

    @property
    def decoding(self) -> int:
        """The peak while tokens are decoded."""
        return self.weights + self.folded + self.cache + self.table + self.step + self.tiles

    @property
    def reading(self) -> int:
        """The peak while a prompt that fills the context is read, its last block."""
        read = max(self.table + self.prompt, self.looking)
        return self.weights + self.cache + read + self.tiles


def generation(
    config: ModelConfig,
    rows: int,
    context: int,
    precision: Precision = "bf16",
    processor: bool = False,
    tiles: int = 0,
) -> Generation:
    """`rows` sequences of at most `context` tokens, decoded together by `puna.engine.local`.

    `processor`: not on a GPU, where small models decode by a faster step; on a GPU pixels stay
    in main memory. `tiles` of pictures stand in the prompts.
    """
    width = WIDTH[precision]
    cache = cache_bytes(config, rows, context, width)
    table = rope_bytes(config, context)
    seen = looking(config, tiles, width)
    return Generation(
        weight_bytes(config, precision),
        _folded(config, precision) if processor and precision in ("fp32", "bf16") else 0,
        cache,
        table,
        _step(config, rows, context, width, processor),
        _prompt(config, rows, context, width) + seen.features,
        seen.tiles if processor else 0,
        seen.passing,
    )


def _folded(config: ModelConfig, precision: Precision) -> int:
    """Matrices with the norms multiplied in, and others that are laid out for their products."""
    if config.num_parameters() > LARGEST:
        return 0
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    out, down = queries * config.hidden_size, config.intermediate_size * config.hidden_size
    least = PACKED if precision == "fp32" else 0
    numbers = config.vocab_size * config.hidden_size
    for layer in range(config.num_layers):
        numbers += (queries + 2 * keys) * config.hidden_size + (out if out >= least else 0)
        if not config.is_moe(layer):
            numbers += 2 * down + (down if down >= least else 0)
    return WIDTH[precision] * numbers


def _step(config: ModelConfig, rows: int, context: int, width: int, processor: bool) -> int:
    """One token a row: a layer over its pages; or the sampler's choice, which has logits before and
    after the temperature, probabilities and their sums in fp32. Masks and uniforms stay beside.
    """
    size, heads = _page(config), config.num_heads
    held = set(_slots(config, context))
    # Of one page as much is read as the longest row has, of several all.
    read = max(n if n > size else min(n, -(-context // 16) * 16) for n in held)
    # Scores and shares of the softmax are fp32, and so are a processor's keys for their product.
    scores = heads * (4 + 4 + (width if width < 4 else 0))
    if processor and width < 4:
        scores = max(scores, 4 * heads + 4 * config.num_kv_heads * config.head_dim)
    queries = -(-read // size) * heads * config.head_dim * (width + (4 if width < 4 else 0))
    masks = rows * (4 * sum(held) + 4 * AHEAD)
    layer = _forward(config, rows, width, rows * (read * scores + queries))
    return masks + max(layer, 16 * rows * config.vocab_size)


def _prompt(config: ModelConfig, rows: int, tokens: int, width: int) -> int:
    """Prompts that fill the context are read in pieces, as many rows at once as `Reader` takes.

    The table of rotations is made first, with as much beside it; at the end the sampler chooses,
    with the logits of every pass beside those of all rows.
    """
    together = max(1, min(rows, PASS // min(PREFILL, tokens)))
    blocks = [_block(config, together, tokens, start, width) for start in _starts(config, tokens)]
    logits = 4 * config.vocab_size
    behind = logits * (rows - together)
    return max(max(blocks) + behind, rope_bytes(config, tokens), 5 * logits * rows)


def _starts(config: ModelConfig, tokens: int) -> list[int]:
    """Where pieces of a prompt begin; of those that the mask keeps small the last one stands for
    all, since their masks are alike."""
    found, start = list[int](), 0
    while start < tokens and start <= ALIKE // PREFILL:
        found.append(start)
        start += _piece(config, start, tokens)
    if start < tokens:
        found.append(tokens - _piece(config, tokens - PREFILL, tokens))
    return found


def _piece(config: ModelConfig, start: int, tokens: int) -> int:
    """How many tokens of a prompt are read at once from `start` on: see `Reader`."""
    most, chunk = min(PREFILL, tokens - start), config.attention_chunk
    if not start:
        return most
    if chunk is not None:
        most = min(most, chunk - start % chunk)
    return max(1, min(most, ALIKE // (start + most)))


def _block(config: ModelConfig, rows: int, tokens: int, start: int, width: int) -> int:
    """The piece of a prompt of `tokens` from `start` on, with masks over it and what is held.

    Rows that stand alike have their masks in common.
    """
    chunk, local = config.attention_chunk, {config.is_local(i) for i in range(config.num_layers)}
    piece = _piece(config, start, tokens)
    seen = [start % chunk if kind and chunk is not None else start for kind in local]
    crossing = chunk is not None and piece > chunk and True in local
    masked = [n + piece for n in seen if n] or [piece] * crossing
    layers = width * piece * sum(masked) + rows * piece * _planned(config, width)
    layers += 17 * rows * tokens + _forward(config, rows * piece, width, read=rows * max(seen))
    making = (1 + width) * piece * max(masked, default=0)
    return max(layers, making)


def _planned(config: ModelConfig, width: int) -> int:
    """Ids, positions and rotations of a token, and where its keys and values go in the cache."""
    kinds = len({config.is_local(i) for i in range(config.num_layers)})
    rotation = config.head_dim * (4 if config.family == "llama4" else 2 * width)
    return 8 * (kinds * (config.num_kv_heads + 2) + 2) + rotation


def _forward(config: ModelConfig, many: int, width: int, scores: int = 0, read: int = 0) -> int:
    """The most that stands at once in a layer without gradients, for M tokens.

    `scores`: bytes of them; `read`: tokens whose keys and values are gathered from pages, as a copy
    of their own and then before the new ones.
    """
    size, wide = config.hidden_size, config.head_dim
    queries, keys = config.num_heads * wide, config.num_kv_heads * wide
    gathering = width * (many * (queries + keys) + keys * (3 * read + 2 * many)) if read else 0
    beside = 2 * width * keys * (read + many) if read else scores
    found = 0
    for layer in range(config.num_layers):
        rotating = 0
        if not config.is_nope(layer) and config.family == "llama3":
            rotating = 3 * width * (queries + keys)
        elif not config.is_nope(layer):
            rotating = (4 if width == 4 else 8 + width) * (queries + keys)
        mixing = width * (2 * queries + 3 * keys) + 8 * config.num_kv_heads
        attention = many * width * (2 * size + queries + 2 * keys)
        attention += max(many * rotating, many * mixing + beside, gathering)
        if config.is_moe(layer):
            last = 2 * config.expert_size // config.num_experts  # of the last expert, still held
            inner = width * (3 * size + max(4 * config.expert_size, 6 * size + last))
        else:
            inner = width * (3 * size + 4 * config.intermediate_size)
        found = max(found, attention, many * inner)
    return found


@dataclass(frozen=True)
class Training:
    """Bytes of one step of several micro-batches, at its most.

    `saved` is what the backward pass needs of the forward pass, `casts` the weights' copies in the
    compute dtype that it keeps with them, `logits` the loss's log-probabilities, `passing` what
    comes on top at the peak: most often the gradients of these two. `adapters` are the fp32 weights
    of LoRA, `seen` what pictures take: pixels, features, and what the encoder keeps.
    """

    weights: int
    gradients: int
    optimizer: int
    saved: int
    casts: int
    logits: int
    passing: int
    adapters: int = 0
    seen: int = 0

    @property
    def total(self) -> int:
        """The peak."""
        return sum(getattr(self, f.name) for f in fields(self))


def training(
    config: ModelConfig,
    rows: int,
    tokens: int,
    width: int,
    on_gpu: bool = False,
    tiles: int = 0,
) -> Training:
    """A step of AdamW on packed rows [B, T] in which each token is a target, as pretraining has it.

    Weights, gradients and both moments are fp32 (`puna.train.optim`); activations have `width`
    bytes. `tiles` of pictures stand in the rows, their pixels in the host's memory where the model
    is `on_gpu`; without any a vision encoder has no gradients.
    """
    many, eyes = rows * tokens, config.vision_parameters
    learned = config.num_parameters() - (0 if tiles else eyes)
    saved = [many * layer_saved(config, i, tokens, width) for i in range(config.num_layers)]
    casts = [_cast(_layer_parameters(config, i), width) for i in range(config.num_layers)]
    found = looking(config, tiles, width)
    eyes_casts = _cast(eyes, width) if tiles else 0
    seen = found.features + found.saved + (0 if on_gpu else found.tiles)
    shared = shared_bytes(config, rows, tokens, width) + seen + eyes_casts
    vocabulary = config.vocab_size * config.hidden_size
    top = many * norm_bytes(config.hidden_size, width) + _cast(vocabulary, width)
    # Gradients of a tied matrix wait, as the head's part, for the embedding's.
    waiting = 4 * vocabulary if config.tie_embeddings else 0
    peaks = [shared + sum(saved) + sum(casts) + top + _head_backward(config, many, width)]
    for i in range(config.num_layers):
        below = shared + sum(saved[: i + 1]) + sum(casts[: i + 1])
        peaks.append(below + waiting + _layer_backward(config, i, many, width))
    peaks.append(shared + waiting + found.backward)
    kept = shared - seen - eyes_casts + sum(saved)
    kept += many * norm_bytes(config.hidden_size, width)
    copies = sum(casts) + _cast(vocabulary, width) + eyes_casts
    logits = 4 * many * config.vocab_size
    return Training(
        weights=4 * config.num_parameters(),
        gradients=4 * learned,
        optimizer=8 * learned,
        saved=kept,
        casts=copies,
        logits=logits,
        passing=max(peaks) - kept - seen - copies - logits,
        seen=seen,
    )


def _cast(parameters: int, width: int) -> int:
    return parameters * width if width < 4 else 0


def norm_bytes(size: int, width: int, frozen: bool = False) -> int:
    """A norm keeps its fp32 input or normalised values, 1 / rms, those values in the compute dtype
    (where it is another and the weight learns) and what it gives, a token.
    """
    normalised = 0 if frozen or width == 4 else width * size
    return 4 + 4 * size + normalised + width * size


def layer_saved(
    config: ModelConfig, layer: int, tokens: int, width: int, frozen: bool = False
) -> int:
    """What a layer keeps of a token for its backward pass."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    total = 2 * norm_bytes(config.hidden_size, width, frozen)
    total += width * (queries + 2 * keys)  # the product whose last part is v
    if not config.is_nope(layer):
        total += width * (queries + keys)
        if config.qk_norm:
            total += 4 * (queries + keys + config.num_heads + config.num_kv_heads)
    elif config.temperature_tuning and tokens >= config.floor_scale:
        total += width * queries
    total += width * queries + 4 * config.num_heads  # attention's result, its log-sum-exp
    if not config.is_moe(layer):
        return total + width * 4 * config.intermediate_size  # gate, up, silu(gate), their product
    scores = 4 * config.num_experts + (width * config.num_experts if width < 4 else 0) + width
    order = 3 * 8  # the choice, the order by expert and its inverse
    return total + scores + order + width * (config.hidden_size + 8 * config.expert_size)


def shared_bytes(config: ModelConfig, rows: int, tokens: int, width: int) -> int:
    """Ids, positions, documents, targets, rotations, temperatures, and one or two masks."""
    rotation = config.head_dim * (4 if config.family == "llama4" else 2 * width)
    chunk = config.attention_chunk
    masks = 2 if chunk is not None and tokens > chunk else 1
    return rows * tokens * (4 * 8 + rotation + tokens * masks * width)


def _head_backward(config: ModelConfig, many: int, width: int) -> int:
    """Log-probabilities, their gradient and the logits'; then the gradient of the head's matrix."""
    hidden, vocab = width * many * config.hidden_size, config.vocab_size
    matrix = vocab * config.hidden_size
    return max(12 * many * vocab, width * (many * vocab + matrix) + hidden, 4 * matrix + hidden)


def _layer_backward(config: ModelConfig, layer: int, many: int, width: int) -> int:
    """What the backward pass of a layer's feed-forward adds to what is saved, at its most.

    A matrix's fresh gradient is made in the compute dtype, then cast to fp32; by then the matrix's
    own cast is gone. So are activations behind it.
    """
    size, moe = config.hidden_size, config.is_moe(layer)
    inner = config.expert_size if moe else config.intermediate_size
    flow, unit = 2 * width * many * size, width * many * inner
    down, gone = inner * size, _cast(inner * size, width)
    found = [
        layer_flow(config, layer, many, width),
        flow + unit + 4 * down,
        flow - 2 * unit + max(2 * width * down, 8 * down - gone) - gone,
    ]
    if moe:  # the experts' gradients wait until the last one's are there, and then are stacked
        found.append(flow - 4 * unit + config.num_experts * (16 * down - 3 * gone))
    return max(found)


def layer_flow(config: ModelConfig, layer: int, many: int, width: int) -> int:
    """The gradients of activations alone in a layer's feed-forward, at their most."""
    inner = config.expert_size if config.is_moe(layer) else config.intermediate_size
    return 2 * width * many * (config.hidden_size + inner)


def _layer_parameters(config: ModelConfig, layer: int) -> int:
    one = replace(config, num_layers=1, moe_every=1, tie_embeddings=True, vision=None)
    if not config.is_moe(layer):
        one = replace(one, num_experts=0)
    outside = config.hidden_size * (config.vocab_size + 1)
    return one.num_parameters() - outside
