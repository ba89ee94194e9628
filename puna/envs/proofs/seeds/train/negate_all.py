def negate_all(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == -old(a[k])
    #@ label Start
    i = len(a)
    while i > 0:
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. i <= k < len(a) -> a[k] == -at(a[k], Start)
        #@ invariant forall k. 0 <= k < i -> a[k] == at(a[k], Start)
        #@ variant i
        i = i - 1
        a[i] = -a[i]
