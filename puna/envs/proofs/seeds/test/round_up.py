def round_up(x: int, step: int) -> int:
    #@ requires step > 0
    #@ ensures x <= result < x + step
    #@ ensures result % step == 0
    r = x % step
    #@ assert x == step * (x // step) + r
    if r == 0:
        return x
    #@ assert x + step - r == step * (x // step + 1)
    return x + step - r
