def is_odd(n: int) -> bool:
    #@ ensures result <-> n % 2 == 1
    return n % 2 != 0
