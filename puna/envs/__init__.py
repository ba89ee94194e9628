"""The environments that ship with Puna, one folder each."""
