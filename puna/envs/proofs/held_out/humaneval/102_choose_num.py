def choose_num(x: int, y: int) -> int:
    #@ requires x > 0 and y > 0
    #@ ensures result == -1 or x <= result <= y and result % 2 == 0
    #@ ensures forall k. x <= k <= y and k % 2 == 0 -> k <= result
    n = y
    if n % 2 == 1:
        n = n - 1
    if n >= x:
        return n
    return -1
