def exclusive(p: bool, q: bool) -> bool:
    #@ ensures result <-> (p and not q) or (q and not p)
    return (p or q) and not (p and q)
