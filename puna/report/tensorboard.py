"""A run's metrics as TensorBoard event files: `puna run RECIPE --tensorboard`."""

from __future__ import annotations

from pathlib import Path

from puna.core.errors import UserError
from puna.core.journal import last_by


def write_tensorboard(run_dir: Path) -> Path:
    """Copy every stage's metrics into TensorBoard event files under `run_dir/tensorboard`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("no tensorboard", "pip install 'puna[tensorboard]'") from None
    out = run_dir / "tensorboard"
    for metrics in sorted(run_dir.glob("*/metrics.jsonl")):
        writer = SummaryWriter(str(out / metrics.parent.name))
        for step, record in last_by(metrics, "step").items():
            for key, value in record.items():
                if isinstance(value, int | float) and key not in ("step", "schema"):
                    writer.add_scalar(key, value, step)
        writer.close()
    return out
