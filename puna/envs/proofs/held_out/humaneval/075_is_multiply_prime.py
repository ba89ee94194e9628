def is_multiply_prime(n: int) -> bool:
    #@ requires 0 <= n < 100
    #@ ensures result <-> exists p, q, r. 2 <= p and 2 <= q and 2 <= r and p * q * r == n and (forall k. 2 <= k < p -> p % k != 0) and (forall k. 2 <= k < q -> q % k != 0) and (forall k. 2 <= k < r -> r % k != 0)
