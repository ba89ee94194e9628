def reverse_in_place(a: list[int]):
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == old(a[len(a) - 1 - k])
    #@ label Start
    i = 0
    j = len(a) - 1
    while i < j:
        #@ invariant 0 <= i and i + j == len(a) - 1 and i <= j + 1
        #@ invariant forall k. 0 <= k < i -> a[k] == at(a[len(a) - 1 - k], Start)
        #@ invariant forall k. i <= k <= j -> a[k] == at(a[k], Start)
        #@ invariant forall k. j < k < len(a) -> a[k] == at(a[len(a) - 1 - k], Start)
        #@ variant j - i
        t = a[i]
        a[i] = a[j]
        a[j] = t
        i = i + 1
        j = j - 1
