def rest(x: int, y: int) -> int:
    #@ requires x >= 0 and y > 0
    #@ ensures 0 <= result < y
    #@ ensures exists q. x == q * y + result
    r = x
    n = 0
    while r >= y:
        #@ invariant r >= 0 and x == n * y + r
        #@ variant r
        r = r - y
        n = n + 1
    return r
