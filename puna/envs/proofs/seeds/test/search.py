def search(a: list[int], x: int) -> int:
    #@ requires forall i, j. 0 <= i <= j < len(a) -> a[i] <= a[j]
    #@ ensures -1 <= result < len(a)
    #@ ensures result >= 0 -> a[result] == x
    #@ ensures result == -1 -> forall k. 0 <= k < len(a) -> a[k] != x
    low = 0
    high = len(a)
    while low < high:
        #@ invariant 0 <= low <= high <= len(a)
        #@ invariant forall k. 0 <= k < low -> a[k] < x
        #@ invariant forall k. high <= k < len(a) -> a[k] > x
        #@ variant high - low
        m = low + (high - low) // 2
        if a[m] < x:
            low = m + 1
        elif a[m] > x:
            high = m
        else:
            return m
    return -1
