def multiple_of(x: int, y: int) -> bool:
    #@ requires y != 0
    #@ ensures result <-> x % y == 0
    return x % y == 0
