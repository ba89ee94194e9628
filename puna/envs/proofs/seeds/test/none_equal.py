def none_equal(a: list[int], x: int) -> bool:
    #@ ensures result <-> forall k. 0 <= k < len(a) -> a[k] != x
    i = 0
    good = True
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant good <-> forall k. 0 <= k < i -> a[k] != x
        #@ variant len(a) - i
        if a[i] == x:
            good = False
        i = i + 1
    return good
