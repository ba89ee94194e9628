def sum_of_odds(n: int) -> int:
    #@ requires n >= 0
    #@ ensures result == n * n
    s = 0
    i = 0
    while i < n:
        #@ invariant 0 <= i <= n and s == i * i
        #@ variant n - i
        s = s + 2 * i + 1
        i = i + 1
    return s
