"""Online RL against verifiers: loop.py, rows.py, and one short file an algorithm."""
