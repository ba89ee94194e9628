def any_int(x: int, y: int, z: int) -> bool:
    #@ ensures result <-> x == y + z or y == x + z or z == x + y
    return x == y + z or y == x + z or z == x + y
