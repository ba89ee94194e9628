"""Lloyd's method."""


def squared_distance(a, b):
    """The squared distance of two points."""
    return sum((p - q) ** 2 for p, q in zip(a, b))


def nearest_centre(point, centres):
    """The number of the centre that is nearest to a point."""
    return min(range(len(centres)), key=lambda i: squared_distance(point, centres[i]))


def moved_centres(points, labels, centres):
    """The mean of each centre's points; a centre without points as it is."""
    moved = []
    for i, centre in enumerate(centres):
        own = [p for p, label in zip(points, labels) if label == i]
        if own:
            centre = tuple(sum(values) / len(own) for values in zip(*own))
        moved.append(centre)
    return moved


def spread_within(points, labels, centres):
    """The mean squared distance of points to the centres that they belong to."""
    apart = [squared_distance(p, centres[label]) for p, label in zip(points, labels)]
    return sum(apart) / len(apart)
