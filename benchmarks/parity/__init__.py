"""Llama models, their like, their eyes and chats against other implementations, number by number.

`python -m benchmarks.parity` runs every case; `tests/models/test_parity.py` runs the same ones.
"""
