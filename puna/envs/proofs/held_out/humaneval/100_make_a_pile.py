def make_a_pile(n: int, pile: list[int]):
    #@ requires n > 0 and len(pile) == n
    #@ ensures pile[0] == n
    #@ ensures forall k. 0 < k < n -> pile[k] == pile[k - 1] + 2
    i = 0
    while i < n:
        #@ invariant 0 <= i <= n
        #@ invariant forall k. 0 <= k < i -> pile[k] == n + 2 * k
        #@ variant n - i
        pile[i] = n + 2 * i
        i = i + 1
