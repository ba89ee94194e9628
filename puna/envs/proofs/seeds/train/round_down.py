def round_down(x: int, step: int) -> int:
    #@ requires step > 0
    #@ ensures result <= x < result + step
    #@ ensures result % step == 0
    #@ assert x == step * (x // step) + x % step
    return x - x % step
