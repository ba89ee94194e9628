def can_arrange(a: list[int]) -> int:
    #@ ensures result == -1 or 0 < result < len(a) and a[result] < a[result - 1]
    #@ ensures forall k. 0 < k < len(a) and k > result -> a[k] >= a[k - 1]
    i = len(a) - 1
    while i > 0:
        #@ invariant i < len(a)
        #@ invariant forall k. 0 < k < len(a) and k > i -> a[k] >= a[k - 1]
        #@ variant i
        if a[i] < a[i - 1]:
            return i
        i = i - 1
    return -1
