def between(x: int, low: int, high: int) -> bool:
    #@ ensures result <-> low <= x < high
    return low <= x and x < high
