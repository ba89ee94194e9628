def find(a: list[int], x: int) -> int:
    #@ ensures -1 <= result < len(a)
    #@ ensures result >= 0 -> a[result] == x
    #@ ensures result == -1 -> forall k. 0 <= k < len(a) -> a[k] != x
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] != x
        #@ variant len(a) - i
        if a[i] == x:
            return i
        i = i + 1
    return -1
