"""Made points."""


def drawn_points(rng, places, count, spread):
    """`count` points as (x, y), by turns around each of the places."""
    points = []
    for i in range(count):
        x, y = places[i % len(places)]
        points.append((rng.gauss(x, spread), rng.gauss(y, spread)))
    return points
