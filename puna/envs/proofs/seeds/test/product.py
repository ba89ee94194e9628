def product(x: int, y: int) -> int:
    #@ requires y >= 0
    #@ ensures result == x * y
    s = 0
    i = 0
    while i < y:
        #@ invariant 0 <= i <= y and s == x * i
        #@ variant y - i
        s = s + x
        i = i + 1
    return s
