def floor_of_half(n: int) -> int:
    #@ ensures 2 * result <= n < 2 * result + 2
    return n // 2
