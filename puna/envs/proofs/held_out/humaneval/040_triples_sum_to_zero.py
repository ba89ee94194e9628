def triples_sum_to_zero(a: list[int]) -> bool:
    #@ ensures result <-> exists i, j, k. 0 <= i < j < k < len(a) and a[i] + a[j] + a[k] == 0
