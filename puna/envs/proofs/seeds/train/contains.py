def contains(a: list[int], x: int) -> bool:
    #@ ensures result <-> exists k. 0 <= k < len(a) and a[k] == x
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] != x
        #@ variant len(a) - i
        if a[i] == x:
            return True
        i = i + 1
    return False
