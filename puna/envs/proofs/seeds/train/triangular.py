def triangular(n: int) -> int:
    #@ requires n >= 0
    #@ ensures 2 * result == n * (n + 1)
    s = 0
    i = 0
    while i < n:
        #@ invariant 0 <= i <= n
        #@ invariant 2 * s == i * (i + 1)
        #@ variant n - i
        i = i + 1
        s = s + i
    return s
