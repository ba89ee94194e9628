def is_sorted(a: list[int]) -> bool:
    #@ ensures result <-> forall k. 0 < k < len(a) -> a[k - 1] <= a[k] and (k > 1 -> a[k - 2] != a[k])
    i = 1
    while i < len(a):
        #@ invariant 1 <= i
        #@ invariant forall k. 0 < k < i and k < len(a) -> a[k - 1] <= a[k] and (k > 1 -> a[k - 2] != a[k])
        #@ variant len(a) - i
        if a[i - 1] > a[i]:
            return False
        if i > 1 and a[i - 2] == a[i]:
            return False
        i = i + 1
    return True
