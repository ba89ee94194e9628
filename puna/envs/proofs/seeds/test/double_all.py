def double_all(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == 2 * old(a[k])
    #@ label Start
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] == 2 * at(a[k], Start)
        #@ invariant forall k. i <= k < len(a) -> a[k] == at(a[k], Start)
        #@ variant len(a) - i
        a[i] = a[i] + a[i]
        i = i + 1
