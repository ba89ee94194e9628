def same_sign(x: int, y: int) -> bool:
    #@ ensures result <-> (x > 0 and y > 0) or (x == 0 and y == 0) or (x < 0 and y < 0)
    if x > 0:
        return y > 0
    if x == 0:
        return y == 0
    return y < 0
