def iscube(n: int) -> bool:
    #@ ensures result <-> exists k. k * k * k == n
