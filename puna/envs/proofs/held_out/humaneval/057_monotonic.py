def monotonic(a: list[int]) -> bool:
    #@ ensures result <-> (forall k. 0 < k < len(a) -> a[k - 1] <= a[k]) or (forall k. 0 < k < len(a) -> a[k - 1] >= a[k])
    up = True
    down = True
    i = 1
    while i < len(a):
        #@ invariant 1 <= i
        #@ invariant up <-> forall k. 0 < k < i and k < len(a) -> a[k - 1] <= a[k]
        #@ invariant down <-> forall k. 0 < k < i and k < len(a) -> a[k - 1] >= a[k]
        #@ variant len(a) - i
        if a[i - 1] > a[i]:
            up = False
        if a[i - 1] < a[i]:
            down = False
        i = i + 1
    return up or down
