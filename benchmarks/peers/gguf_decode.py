"""llama.cpp's half of the decoding benchmark: a checkpoint as GGUF, logits, greedy and timed runs.

`.peers/llama-cpp/bin/python benchmarks/peers/gguf_decode.py DIRECTORY` reads a Llama checkpoint in
Hugging Face's layout, then takes jobs, a line of JSON each, and answers each with one.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

TYPES = {"fp32": gguf.GGMLQuantizationType.F32, "bf16": gguf.GGMLQuantizationType.BF16}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.weight"
    layer, _, kind = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[kind]}.weight"


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of q or k [H * D, C] in the order of a rotation of neighbours, not of halves."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write(source: Path, target: Path, precision: str, rotated: bool = True) -> None:
    """The checkpoint as GGUF, matrices in `precision`, norms in fp32, without a vocabulary.

    Without `rotated` the rows of q and k stay as they are, which is wrong.
    """
    config = json.loads((source / "config.json").read_text())
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    out = gguf.GGUFWriter(target, "llama")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(key_heads)
    out.add_key_length(config["head_dim"])
    out.add_value_length(config["head_dim"])
    out.add_rope_dimension_count(config["head_dim"])
    out.add_rope_freq_base(config["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_tokenizer_model("no_vocab")
    for name, weight in load_file(source / "model.safetensors").items():
        if rotated and name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = interleaved(weight, heads if "q_proj" in name else key_heads)
        kind = TYPES["fp32" if weight.ndim == 1 else precision]
        out.add_tensor(gguf_name(name), gguf.quants.quantize(weight, kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


class Decoding:
    """A model of one file, with room for `rows` sequences in one cache, fp16 or `exact`.

    Its flash attention computes partly in fp16; it is the faster one for a single row only.
    """

    def __init__(self, file: Path, rows: int, threads: int, flash: bool, exact: bool) -> None:
        how = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), how)
        assert self.model, f"{file} cannot be loaded"
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max, params.n_ctx = rows, 256 * rows
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified, params.flash_attn_type = True, int(flash)
        if exact:
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        assert self.ctx, "no context"
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def _put(self, token: int, position: int, row: int, wanted: bool) -> None:
        i = self.batch.n_tokens
        self.batch.token[i], self.batch.pos[i] = token, position
        self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, row
        self.batch.logits[i] = wanted
        self.batch.n_tokens = i + 1

    def _compute(self) -> None:
        found = llama_cpp.llama_decode(self.ctx, self.batch)
        assert found == 0, f"llama_decode: {found}"
        self.batch.n_tokens = 0

    def run(self, prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
        """`new` tokens behind each prompt; all prompts at once, then a token of each a step."""
        llama_cpp.llama_memory_clear(self.memory, False)
        draws = [_sampler(greedy, row) for row in range(len(prompts))]
        said: list[list[int]] = [[] for _ in prompts]
        places = []
        for row, ids in enumerate(prompts):
            for at, token in enumerate(ids):
                self._put(token, at, row, at == len(ids) - 1)
            places.append(self.batch.n_tokens - 1)
        self._compute()
        while True:
            for row, (draw, place) in enumerate(zip(draws, places, strict=True)):
                said[row].append(llama_cpp.llama_sampler_sample(draw, self.ctx, place))
            if len(said[0]) == new:
                return said
            for row, ids in enumerate(said):
                self._put(ids[-1], len(prompts[row]) + len(ids) - 1, row, True)
            self._compute()
            places = list(range(len(prompts)))

    def logits(self, ids: list[int]) -> list[list[float]]:
        """Logits [T, V] of one sequence."""
        llama_cpp.llama_memory_clear(self.memory, False)
        for at, token in enumerate(ids):
            self._put(token, at, 0, True)
        self._compute()
        rows = (llama_cpp.llama_get_logits_ith(self.ctx, at) for at in range(len(ids)))
        return [list(row[: self.vocab_size]) for row in rows]


@cache
def _sampler(greedy: bool, row: int) -> Any:
    """llama.cpp's own draw from the softmax, or its argmax."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    draw = (
        llama_cpp.llama_sampler_init_greedy() if greedy else llama_cpp.llama_sampler_init_dist(row)
    )
    llama_cpp.llama_sampler_chain_add(chain, draw)
    return chain


def main() -> None:
    """Answer jobs until standard input ends."""
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    source = Path(sys.argv[1])

    @cache
    def file(precision: str, rotated: bool) -> Path:
        target = source / f"{precision}{'' if rotated else '-wrong'}.gguf"
        write(source, target, precision, rotated)
        return target

    @cache
    def decoding(precision: str, rotated: bool, *how: int) -> Decoding:
        rows, threads, flash, exact = how
        return Decoding(file(precision, rotated), rows, threads, bool(flash), bool(exact))

    system = llama_cpp.llama_print_system_info().decode()
    print(json.dumps({"version": version("llama-cpp-python"), "system": system}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        names = ("precision", "rotated", "rows", "threads", "flash", "exact")
        model, ids = decoding(*(job[name] for name in names)), job["ids"]
        if job["do"] == "logits":
            print(json.dumps(model.logits(ids[0])), flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        said = model.run(ids, job["new"], job["do"] == "greedy")
        spent = (time.perf_counter() - wall, time.process_time() - cpu)
        print(json.dumps({"ids": said, "wall": spent[0], "cpu": spent[1]}), flush=True)


if __name__ == "__main__":
    main()
