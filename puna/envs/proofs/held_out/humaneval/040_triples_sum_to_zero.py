def triples_sum_to_zero(a: list[int]) -> bool:
    #@ ensures result <-> exists i, j, k. 0 <= i < j < k < len(a) and a[i] + a[j] + a[k] == 0
    p = 0
    while p < len(a):
        #@ invariant 0 <= p <= len(a)
        #@ invariant forall i, j, k. 0 <= i < p and i < j < k < len(a) -> a[i] + a[j] + a[k] != 0
        #@ variant len(a) - p
        q = p + 1
        while q < len(a):
            #@ invariant p < q <= len(a)
            #@ invariant forall j, k. p < j < q and j < k < len(a) -> a[p] + a[j] + a[k] != 0
            #@ variant len(a) - q
            r = q + 1
            while r < len(a):
                #@ invariant q < r <= len(a)
                #@ invariant forall k. q < k < r -> a[p] + a[q] + a[k] != 0
                #@ variant len(a) - r
                if a[p] + a[q] + a[r] == 0:
                    return True
                r = r + 1
            q = q + 1
        p = p + 1
    return False
