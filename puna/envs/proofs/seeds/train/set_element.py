def set_element(a: list[int], i: int, x: int):
    #@ requires 0 <= i < len(a)
    #@ ensures a[i] == x
    #@ ensures forall k. 0 <= k < len(a) and k != i -> a[k] == old(a[k])
    a[i] = x
