def half_up(n: int) -> int:
    #@ ensures 2 * result >= n and 2 * result <= n + 1
    return (n + 1) // 2
