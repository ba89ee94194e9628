"""Other libraries' formats: one file each, turning a foreign thing into an Environment and back.

`load_environment("reasoning_gym:coin_flip")`; docs/other-gyms.md has them all.
"""
