def distance(x: int, y: int) -> int:
    #@ ensures result >= 0
    #@ ensures result == x - y or result == y - x
    if x > y:
        return x - y
    return y - x
