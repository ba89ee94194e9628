def larger_than_all(a: list[int]) -> int:
    #@ ensures forall k. 0 <= k < len(a) -> a[k] < result
    #@ ensures result > 0
    s = 1
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a) and s > 0
        #@ invariant forall k. 0 <= k < i -> a[k] < s
        #@ variant len(a) - i
        if a[i] >= s:
            s = a[i] + 1
        i = i + 1
    return s
