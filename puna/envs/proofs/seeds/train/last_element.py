def last_element(a: list[int]) -> int:
    #@ requires len(a) > 0
    #@ ensures result == a[len(a) - 1]
    return a[-1]
