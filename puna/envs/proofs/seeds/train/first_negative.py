def first_negative(a: list[int]) -> int:
    #@ ensures 0 <= result <= len(a)
    #@ ensures result < len(a) -> a[result] < 0
    #@ ensures forall k. 0 <= k < result -> a[k] >= 0
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] >= 0
        #@ variant len(a) - i
        if a[i] < 0:
            break
        i = i + 1
    return i
