def move_one_ball(a: list[int]) -> bool:
    #@ requires forall i, j. 0 <= i < j < len(a) -> a[i] != a[j]
    #@ ensures result <-> len(a) == 0 or exists s. 0 <= s < len(a) and forall i. 0 < i < len(a) -> a[(s + i - 1) % len(a)] <= a[(s + i) % len(a)]
