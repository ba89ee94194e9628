"""The small tokenizers of other families are made beside the tests of `puna.text`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "text"))
