def copy_into(a: list[int], b: list[int]):
    #@ requires len(a) == len(b)
    #@ ensures forall k. 0 <= k < len(a) -> b[k] == a[k]
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == old(a[k])
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> b[k] == a[k]
        #@ variant len(a) - i
        b[i] = a[i]
        i = i + 1
