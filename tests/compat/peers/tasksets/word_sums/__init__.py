"""A taskset as users write them: sums in words, a weighted format reward, one that needs a box."""

from word_sums.taskset import WordSumsTaskset

__all__ = ["WordSumsTaskset"]
