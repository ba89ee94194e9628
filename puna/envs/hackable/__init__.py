"""Arithmetic with a soft verifier that can be gamed, for the recipe that shows the alarm."""
