def largest_prime_factor(n: int) -> int:
    #@ requires n > 1
    #@ ensures 1 < result <= n and n % result == 0
    #@ ensures forall k. 2 <= k < result -> result % k != 0
    #@ ensures forall p. result < p <= n and n % p == 0 -> exists k. 2 <= k < p and p % k == 0
