def place_of_maximum(a: list[int]) -> int:
    #@ requires len(a) > 0
    #@ ensures 0 <= result < len(a)
    #@ ensures forall k. 0 <= k < len(a) -> a[k] <= a[result]
    best = 0
    i = 1
    while i < len(a):
        #@ invariant 1 <= i <= len(a) and 0 <= best < i
        #@ invariant forall k. 0 <= k < i -> a[k] <= a[best]
        #@ variant len(a) - i
        if a[i] > a[best]:
            best = i
        i = i + 1
    return best
