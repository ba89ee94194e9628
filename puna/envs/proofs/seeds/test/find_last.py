def find_last(a: list[int], x: int) -> int:
    #@ ensures -1 <= result < len(a)
    #@ ensures result >= 0 -> a[result] == x
    #@ ensures forall k. result < k < len(a) -> a[k] != x
    i = len(a) - 1
    while i >= 0 and a[i] != x:
        #@ invariant -1 <= i < len(a)
        #@ invariant forall k. i < k < len(a) -> a[k] != x
        #@ variant i + 1
        i = i - 1
    return i
