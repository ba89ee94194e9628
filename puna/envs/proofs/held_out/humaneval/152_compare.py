def compare(game: list[int], guess: list[int], off: list[int]):
    #@ requires len(game) == len(guess) and len(guess) == len(off)
    #@ ensures forall k. 0 <= k < len(off) -> off[k] >= 0
    #@ ensures forall k. 0 <= k < len(off) -> off[k] == game[k] - guess[k] or off[k] == guess[k] - game[k]
    #@ ensures forall k. 0 <= k < len(off) -> game[k] == old(game[k]) and guess[k] == old(guess[k])
    i = 0
    while i < len(off):
        #@ invariant 0 <= i <= len(off)
        #@ invariant forall k. 0 <= k < i -> off[k] >= 0
        #@ invariant forall k. 0 <= k < i -> off[k] == game[k] - guess[k] or off[k] == guess[k] - game[k]
        #@ variant len(off) - i
        if game[i] < guess[i]:
            off[i] = guess[i] - game[i]
        else:
            off[i] = game[i] - guess[i]
        i = i + 1
