def is_prime(n: int) -> bool:
    #@ ensures result <-> n > 1 and forall k. 2 <= k < n -> n % k != 0
    if n <= 1:
        return False
    d = 2
    while d < n:
        #@ invariant 2 <= d <= n
        #@ invariant forall k. 2 <= k < d -> n % k != 0
        #@ variant n - d
        if n % d == 0:
            return False
        d = d + 1
    return True
