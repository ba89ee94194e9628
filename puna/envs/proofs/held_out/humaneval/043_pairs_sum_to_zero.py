def pairs_sum_to_zero(a: list[int]) -> bool:
    #@ ensures result <-> exists i, j. 0 <= i < j < len(a) and a[i] + a[j] == 0
    p = 0
    while p < len(a):
        #@ invariant 0 <= p <= len(a)
        #@ invariant forall i, j. 0 <= i < p and i < j < len(a) -> a[i] + a[j] != 0
        #@ variant len(a) - p
        q = p + 1
        while q < len(a):
            #@ invariant p < q <= len(a)
            #@ invariant forall j. p < j < q -> a[p] + a[j] != 0
            #@ variant len(a) - q
            if a[p] + a[q] == 0:
                return True
            q = q + 1
        p = p + 1
    return False
