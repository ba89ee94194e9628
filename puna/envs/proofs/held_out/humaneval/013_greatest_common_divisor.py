def greatest_common_divisor(a: int, b: int) -> int:
    #@ requires a > 0 and b > 0
    #@ ensures result > 0 and a % result == 0 and b % result == 0
    #@ ensures forall d. d > 0 and a % d == 0 and b % d == 0 -> d <= result
    d = a
    while a % d != 0 or b % d != 0:
        #@ invariant 0 < d <= a
        #@ invariant forall k. d < k and a % k == 0 -> b % k != 0
        #@ variant d
        if d == 1:
            break
        d = d - 1
    return d
