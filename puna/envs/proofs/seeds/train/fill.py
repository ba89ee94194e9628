def fill(a: list[int], x: int):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == x
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] == x
        #@ variant len(a) - i
        a[i] = x
        i = i + 1
