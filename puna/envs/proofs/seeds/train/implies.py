def implies(p: bool, q: bool) -> bool:
    #@ ensures result <-> (p -> q)
    return not p or q
