"""Measure the clusters: python3 run.py SEED writes the numbers to results.json."""

import json
import random
import sys

from clusters.draw import drawn_points
from clusters.lloyd import moved_centres, nearest_centre, spread_within

PLACES = [(0.0, 0.0), (4.0, 1.0), (1.0, 5.0)]

rng = random.Random(int(sys.argv[1]))
points = drawn_points(rng, PLACES, 150, 0.9)
centres = points[: len(PLACES)]
for _ in range(8):
    labels = [nearest_centre(point, centres) for point in points]
    centres = moved_centres(points, labels, centres)
found = {
    "within": spread_within(points, labels, centres),
    "sizes": [labels.count(i) for i in range(len(centres))],
    "centres": {str(i): list(centre) for i, centre in enumerate(centres)},
}
with open("results.json", "w") as file:
    json.dump(found, file)
