"""The fourth guise of each incident."""
