def quotient(x: int, y: int) -> int:
    #@ requires x >= 0 and y > 0
    #@ ensures result * y <= x < (result + 1) * y
    q = 0
    rest = x
    while rest >= y:
        #@ invariant rest >= 0 and q * y + rest == x
        #@ variant rest
        rest = rest - y
        q = q + 1
    return q
