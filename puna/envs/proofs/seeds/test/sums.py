def sums(a: list[int], b: list[int], c: list[int]):
    #@ requires len(a) == len(b) and len(b) == len(c)
    #@ ensures forall k. 0 <= k < len(a) -> c[k] == a[k] + b[k]
    #@ ensures forall k. 0 <= k < len(a) -> a[k] == old(a[k]) and b[k] == old(b[k])
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> c[k] == a[k] + b[k]
        #@ variant len(a) - i
        c[i] = a[i] + b[i]
        i = i + 1
