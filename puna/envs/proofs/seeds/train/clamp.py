def clamp(x: int, low: int, high: int) -> int:
    #@ requires low <= high
    #@ ensures low <= result <= high
    #@ ensures low <= x <= high -> result == x
    #@ ensures x < low -> result == low
    #@ ensures x > high -> result == high
    if x < low:
        return low
    if x > high:
        return high
    return x
