"""What the waits are like."""

import math


def batch_error(values, batches):
    """The standard error of the mean, from the means of so many batches of equal length."""
    size = len(values) // batches
    means = [sum(values[i * size : (i + 1) * size]) / size for i in range(batches)]
    centre = sum(means) / batches
    variance = sum((m - centre) ** 2 for m in means) / (batches - 1)
    return math.sqrt(variance / batches)


def lag_correlation(values, lag):
    """The correlation of values that lie `lag` places apart."""
    centre = sum(values) / len(values)
    apart = [v - centre for v in values]
    products = sum(a * b for a, b in zip(apart, apart[lag:]))
    return products / sum(a * a for a in apart)


def late_share(waits, limit):
    """The share of customers who wait longer than `limit`."""
    return sum(wait > limit for wait in waits) / len(waits)
