def is_equal_to_sum_even(n: int) -> bool:
    #@ ensures result <-> exists p, q, r, s. p > 0 and q > 0 and r > 0 and s > 0 and 2 * p + 2 * q + 2 * r + 2 * s == n
