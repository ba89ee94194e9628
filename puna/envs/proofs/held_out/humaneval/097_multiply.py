def multiply(a: int, b: int) -> int:
    #@ ensures result == ((if a < 0 then -a else a) % 10) * ((if b < 0 then -b else b) % 10)
    if a < 0:
        a = -a
    if b < 0:
        b = -b
    return (a % 10) * (b % 10)
