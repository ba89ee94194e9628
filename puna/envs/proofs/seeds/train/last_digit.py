def last_digit(n: int) -> int:
    #@ requires n >= 0
    #@ ensures 0 <= result <= 9
    #@ ensures (n - result) % 10 == 0
    return n % 10
