def numbers(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == k
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] == k
        #@ variant len(a) - i
        a[i] = i
        i = i + 1
