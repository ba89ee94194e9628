def middle(low: int, high: int) -> int:
    #@ requires low < high
    #@ ensures low <= result < high
    #@ ensures result - low <= high - result <= result - low + 1
    return low + (high - low) // 2
