def equal_truths(p: bool, q: bool) -> bool:
    #@ ensures result <-> (p <-> q)
    return (p and q) or not (p or q)
