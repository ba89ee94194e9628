"""The source of a sound environment of one file, for tests that spoil it."""

GOOD = '''
import numpy as np
from puna.core.outcome import Infra, Scored
from puna.gym.environment import Problem, SingleTurn, say

class Sums(SingleTurn):
    """Adds."""
    name = "sums"
    sizes = {"train": 500, "test": 100}
    def make(self, rng):
        a, b = rng.integers(100, 1000, 2)
        return Problem(f"{a}+{b}=", str(a + b))
    def score(self, answer, problem):
        return float(answer.strip() == problem.answer)
'''
