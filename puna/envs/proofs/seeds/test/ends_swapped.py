def ends_swapped(a: list[int]):
    #@ requires len(a) > 0
    #@ ensures a[0] == old(a[len(a) - 1]) and a[len(a) - 1] == old(a[0])
    #@ ensures forall k. 0 < k < len(a) - 1 -> a[k] == old(a[k])
    t = a[0]
    a[0] = a[-1]
    a[-1] = t
