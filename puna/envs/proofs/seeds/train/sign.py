def sign(x: int) -> int:
    #@ ensures x > 0 -> result == 1
    #@ ensures x == 0 -> result == 0
    #@ ensures x < 0 -> result == -1
    if x > 0:
        return 1
    if x < 0:
        return -1
    return 0
