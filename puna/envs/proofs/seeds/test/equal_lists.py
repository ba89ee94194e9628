def equal_lists(a: list[int], b: list[int]) -> bool:
    #@ ensures result <-> len(a) == len(b) and forall k. 0 <= k < len(a) -> a[k] == b[k]
    if len(a) != len(b):
        return False
    i = 0
    while i < len(a):
        #@ invariant 0 <= i <= len(a)
        #@ invariant forall k. 0 <= k < i -> a[k] == b[k]
        #@ variant len(a) - i
        if a[i] != b[i]:
            return False
        i = i + 1
    return True
