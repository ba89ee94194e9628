def largest_divisor(n: int) -> int:
    #@ requires n > 1
    #@ ensures 0 < result < n and n % result == 0
    #@ ensures forall k. result < k < n -> n % k != 0
    d = n - 1
    while n % d != 0:
        #@ invariant 0 < d < n
        #@ invariant forall k. d < k < n -> n % k != 0
        #@ variant d
        if d == 1:
            break
        d = d - 1
    return d
