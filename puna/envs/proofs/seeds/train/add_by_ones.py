def add_by_ones(x: int, y: int) -> int:
    #@ requires y >= 0
    #@ ensures result == x + y
    s = x
    left = y
    while left > 0:
        #@ invariant left >= 0 and s + left == x + y
        #@ variant left
        s = s + 1
        left = left - 1
    return s
