def larger(x: int, y: int) -> int:
    #@ ensures result >= x and result >= y
    #@ ensures result == x or result == y
    if x > y:
        return x
    return y
