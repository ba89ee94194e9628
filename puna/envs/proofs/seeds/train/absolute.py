def absolute(x: int) -> int:
    #@ ensures result >= 0
    #@ ensures result == x or result == -x
    return x if x >= 0 else -x
