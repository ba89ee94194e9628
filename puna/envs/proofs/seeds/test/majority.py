def majority(p: bool, q: bool, r: bool) -> bool:
    #@ ensures result <-> (p and q) or (p and r) or (q and r)
    if p:
        return q or r
    return q and r
