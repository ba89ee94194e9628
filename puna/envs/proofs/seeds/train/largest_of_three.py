def largest_of_three(a: int, b: int, c: int) -> int:
    #@ ensures result >= a and result >= b and result >= c
    #@ ensures result == a or result == b or result == c
    best = a
    if b > best:
        best = b
    if c > best:
        best = c
    return best
