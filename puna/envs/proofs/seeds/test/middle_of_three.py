def middle_of_three(a: int, b: int, c: int) -> int:
    #@ ensures result == a or result == b or result == c
    #@ ensures (a <= result <= b or b <= result <= a) or (a <= result <= c or c <= result <= a) or (b <= result <= c or c <= result <= b)
    #@ ensures (result <= a or result <= b) and (result <= b or result <= c) and (result <= a or result <= c)
    #@ ensures (result >= a or result >= b) and (result >= b or result >= c) and (result >= a or result >= c)
    if a <= b:
        if b <= c:
            return b
        if a <= c:
            return c
        return a
    if a <= c:
        return a
    if b <= c:
        return c
    return b
