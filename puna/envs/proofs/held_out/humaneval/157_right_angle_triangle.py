def right_angle_triangle(a: int, b: int, c: int) -> bool:
    #@ requires a > 0 and b > 0 and c > 0
    #@ ensures result <-> a * a + b * b == c * c or a * a + c * c == b * b or b * b + c * c == a * a
    return a * a + b * b == c * c or a * a + c * c == b * b or b * b + c * c == a * a
