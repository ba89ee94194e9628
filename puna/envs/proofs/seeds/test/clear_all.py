def clear_all(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == 0
    i = len(a)
    while i > 0:
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. i <= k < len(a) -> a[k] == 0
        #@ variant i
        i = i - 1
        a[i] = 0
