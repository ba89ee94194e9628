def add(x: int, y: int) -> int:
    #@ ensures result == x + y
    return x + y
