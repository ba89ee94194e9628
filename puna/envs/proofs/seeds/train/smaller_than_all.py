def smaller_than_all(a: list[int]) -> int:
    #@ ensures forall k. 0 <= k < len(a) -> result < a[k]
    s = 0
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> s < a[k]
        #@ variant len(a) - i
        if a[i] <= s:
            s = a[i] - 1
        i = i + 1
    return s
