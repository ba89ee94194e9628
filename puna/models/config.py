"""The shape of a text model of the Llama kind, as one frozen dataclass.

`ModelConfig("llama3", vocab_size=512, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2,
head_dim=16, intermediate_size=192).num_parameters()`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from puna.core.errors import FieldError
from puna.models.vision_config import VisionConfig

Family = Literal["llama3", "llama4", "qwen2", "qwen3", "mistral"]


@dataclass(frozen=True)
class RopeScaling:
    """Stretching of slow rotary frequencies, as Llama 3.1 and Llama 4 Scout have it."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        for field in fields(self):
            _require(self, field.name, getattr(self, field.name) > 0, "above 0")
        ordered = self.high_freq_factor >= self.low_freq_factor
        _require(self, "high_freq_factor", ordered, f"at least {self.low_freq_factor}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a decoder. Raises UserError naming the field and its value.

    Families other than llama4 are one dense decoder: llama3 as it is, mistral like it, qwen2 with
    biases on q, k and v, qwen3 with norms of each query and key head before the rotation.
    Sizes are in elements, positions in tokens. `attention_chunk` is None for full causal
    attention everywhere, `nope_every` 0 for rotary positions in every layer, `num_experts` 0 for
    a dense model, `vision` None for one that reads no images. `expert_size` is the width of each
    routed and of the shared expert; `intermediate_size` is the width of the dense layers.
    """

    family: Family
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    expert_size: int = 0
    num_experts: int = 0
    moe_every: int = 1
    attention_chunk: int | None = None
    nope_every: int = 0
    qk_norm: bool = False
    temperature_tuning: bool = False
    floor_scale: int = 8192
    attn_scale: float = 0.1
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    max_positions: int = 8192
    initializer_range: float = 0.02
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    vision: VisionConfig | None = None

    def __post_init__(self) -> None:
        families = get_args(Family)
        _require(self, "family", self.family in families, "as one of " + ", ".join(families))
        for name in _POSITIVE:
            _require(self, name, getattr(self, name) > 0, "above 0")
        for name in ("expert_size", "num_experts", "nope_every", "attn_scale", "initializer_range"):
            _require(self, name, getattr(self, name) >= 0, "0 or more")
        _require(self, "head_dim", self.head_dim % 2 == 0, "even")
        divides = self.num_heads % self.num_kv_heads == 0
        _require(self, "num_kv_heads", divides, f"a divisor of the {self.num_heads} heads")
        chunk = self.attention_chunk
        _require(self, "attention_chunk", chunk is None or chunk > 0, "above 0, or none")
        if self.num_experts:
            _require(self, "expert_size", self.expert_size > 0, "above 0 where experts exist")
        for name in ("bos_id", "pad_id"):
            token = getattr(self, name)
            inside = token is None or 0 <= token < self.vocab_size
            _require(self, name, inside, f"inside the vocabulary of {self.vocab_size}")
        inside = all(0 <= i < self.vocab_size for i in self.eos_ids)
        _require(self, "eos_ids", inside, f"inside the vocabulary of {self.vocab_size}")
        seen = self.vision is None or self.vision.patch_id < self.vocab_size
        _require(self, "vision", seen, f"a patch_id inside the vocabulary of {self.vocab_size}")
        if self.family != "llama4":
            for name, plain in _LLAMA4_ONLY.items():
                alike = getattr(self, name) == plain
                _require(self, name, alike, f"{plain} in the {self.family} family")

    def is_nope(self, layer: int) -> bool:
        """Whether 0-based `layer` has no rotary positions and full causal attention."""
        return self.nope_every > 0 and (layer + 1) % self.nope_every == 0

    def is_local(self, layer: int) -> bool:
        """Whether `layer` attends only inside its attention chunk."""
        return self.attention_chunk is not None and not self.is_nope(layer)

    def is_moe(self, layer: int) -> bool:
        """Whether `layer` has routed experts."""
        return self.num_experts > 0 and (layer + 1) % self.moe_every == 0

    @property
    def qkv_bias(self) -> bool:
        """Whether the projections to q, k and v have biases."""
        return self.family == "qwen2"

    @property
    def head_norms(self) -> bool:
        """Whether q and k are normalised per head, with weights, before they are rotated."""
        return self.family == "qwen3"

    @property
    def num_moe_layers(self) -> int:
        """How many layers have routed experts."""
        return sum(self.is_moe(i) for i in range(self.num_layers))

    def num_parameters(self) -> int:
        """All parameters, the embedding and an untied head included."""
        return self._count(self.num_experts)

    @property
    def vision_parameters(self) -> int:
        """Those of the image encoder, 0 without one."""
        return 0 if self.vision is None else self.vision.num_parameters(self.hidden_size)

    def active_parameters(self) -> int:
        """Parameters that one token uses: one routed expert a layer, embedding and head whole."""
        return self._count(1)

    def _count(self, experts: int) -> int:
        width = self.hidden_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = width * (2 * queries + 2 * keys)
        attention += (queries + 2 * keys) * self.qkv_bias + 2 * self.head_dim * self.head_norms
        routed = 3 * width * self.expert_size * (experts + 1) + width * self.num_experts
        dense = 3 * width * self.intermediate_size
        moe = self.num_moe_layers
        layers = self.num_layers * (attention + 2 * width)
        layers += moe * routed + (self.num_layers - moe) * dense
        ends = self.vocab_size * width * (1 if self.tie_embeddings else 2)
        return self.vision_parameters + layers + width + ends


_POSITIVE = (
    "vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
    "intermediate_size", "moe_every", "floor_scale", "rope_theta", "norm_eps", "max_positions",
)  # fmt: skip
_LLAMA4_ONLY = {
    "num_experts": 0,
    "attention_chunk": None,
    "nope_every": 0,
    "qk_norm": False,
    "temperature_tuning": False,
    "vision": None,
}


def _require(owner: object, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise FieldError("model", name, getattr(owner, name), wanted)
