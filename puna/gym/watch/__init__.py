"""Watching rewards while training: pot.py (the test), seen.py, signs.py, watch.py (all of them)."""
