def swap(a: list[int], i: int, j: int):
    #@ requires 0 <= i < len(a) and 0 <= j < len(a)
    #@ ensures a[i] == old(a[j]) and a[j] == old(a[i])
    #@ ensures forall k. 0 <= k < len(a) and k != i and k != j -> a[k] == old(a[k])
    t = a[i]
    a[i] = a[j]
    a[j] = t
