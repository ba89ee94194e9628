def x_or_y(n: int, x: int, y: int) -> int:
    #@ ensures n > 1 and (forall k. 2 <= k < n -> n % k != 0) -> result == x
    #@ ensures n <= 1 or (exists k. 2 <= k < n and n % k == 0) -> result == y
    if n <= 1:
        return y
    d = 2
    while d < n:
        #@ invariant 2 <= d <= n
        #@ invariant forall k. 2 <= k < d -> n % k != 0
        #@ variant n - d
        if n % d == 0:
            return y
        d = d + 1
    return x
