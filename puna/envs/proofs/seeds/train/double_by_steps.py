def double_by_steps(n: int) -> int:
    #@ requires n >= 0
    #@ ensures result == 2 * n
    s = 0
    i = 0
    while i < n:
        #@ invariant 0 <= i <= n and s == 2 * i
        #@ variant n - i
        s = s + 2
        i = i + 1
    return s
