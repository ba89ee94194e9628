def all_positive(a: list[int]) -> bool:
    #@ ensures result <-> forall k. 0 <= k < len(a) -> a[k] > 0
    i = 0
    while i < len(a) and a[i] > 0:
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] > 0
        #@ variant len(a) - i
        i = i + 1
    return i == len(a)
