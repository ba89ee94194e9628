def car_race_collision(n: int) -> int:
    #@ requires n >= 0
    #@ ensures result == n * n
    return n * n
