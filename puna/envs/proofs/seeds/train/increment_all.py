def increment_all(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == old(a[k]) + 1
    #@ label Start
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] == at(a[k], Start) + 1
        #@ invariant forall k. i <= k < len(a) -> a[k] == at(a[k], Start)
        #@ variant len(a) - i
        a[i] = a[i] + 1
        i = i + 1
