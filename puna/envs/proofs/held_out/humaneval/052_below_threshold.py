def below_threshold(a: list[int], t: int) -> bool:
    #@ ensures result <-> forall k. 0 <= k < len(a) -> a[k] < t
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] < t
        #@ variant len(a) - i
        if a[i] >= t:
            return False
        i = i + 1
    return True
