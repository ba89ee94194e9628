"""`python -m benchmarks.gpu decoding generating expert_tiles attention_tiles long_contexts training
placing layer reinforcement` on one GPU.

Each part prints a line for each measurement; `generating` is `decoding` in transformers. The share
of the peak counts 6 operations a token for every active parameter without the embedding, attention
over half of the sequence, and 989 TFLOP/s. What bytes take is counted at 4.8 TB/s.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback

import torch

from benchmarks.gpu.decoding import decoding, generating, long_contexts
from benchmarks.gpu.learning import layer, placing, training
from benchmarks.gpu.reinforcing import reinforcement
from benchmarks.gpu.tiles import attention_tiles, expert_tiles

PARTS = {
    f.__name__: f
    for f in (
        decoding, generating, expert_tiles, attention_tiles, long_contexts, training, placing,
        layer, reinforcement,
    )
}  # fmt: skip


def main() -> int:
    """Runs the parts named, all without a name; 1 where one failed."""
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    failed = 0
    for name in sys.argv[1:] or PARTS:
        began = time.perf_counter()
        try:
            PARTS[name]()
        except Exception:
            traceback.print_exc()
            failed = 1
        print(f"-- {name}: {time.perf_counter() - began:.0f} s", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return failed


if __name__ == "__main__":
    sys.exit(main())
