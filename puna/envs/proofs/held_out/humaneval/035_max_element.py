def max_element(a: list[int]) -> int:
    #@ requires len(a) > 0
    #@ ensures forall k. 0 <= k < len(a) -> a[k] <= result
    #@ ensures exists k. 0 <= k < len(a) and a[k] == result
    m = a[0]
    i = 1
    while i < len(a):
        #@ invariant 1 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] <= m
        #@ invariant exists k. 0 <= k < i and a[k] == m
        #@ variant len(a) - i
        if a[i] > m:
            m = a[i]
        i = i + 1
    return m
