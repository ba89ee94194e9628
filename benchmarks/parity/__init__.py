"""Llama text models against other implementations of them, number by number.

`python -m benchmarks.parity` runs every case; `tests/models/test_parity.py` runs the same ones.
"""
