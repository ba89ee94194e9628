"""Numbers of a package that makes tables of text: lengths of what it prints."""

import json
import random
import sys

from tabulate import tabulate

rng = random.Random(int(sys.argv[1]))
words = [rng.choice("abc") * rng.randrange(1, 9) for _ in range(9)]
rows = [[word, rng.random() * 100, rng.randrange(99)] for word in words]
found = {}
for form in ("plain", "grid", "github", "html", "latex"):
    text = tabulate(rows, headers=["word", "share", "count"], tablefmt=form, floatfmt=".2f")
    lines = text.splitlines()
    found[form] = [len(text), len(lines), sum(map(ord, text)) / len(text), text.count("|")]
print(json.dumps(found))
